/* SPDX-License-Identifier: Apache-2.0 */
#include "control/listen.h"

#include "base/error.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 1024
#define LOCK_TRIES 1000 /* of a ms each */
#define HOST_MAX 64u

/* --- of the file system --- */

static int make_path(const char *option, const char *name, struct sockaddr_un *path)
{
	size_t length = strlen(option);
	bool folder = option[length - 1] == '/';

	if (folder && strchr(name, '/'))
		return kvx_fail(KVX_E_INVALID,
				"control: the engine's name \"%s\" holds a /, so no socket can be "
				"called after it; set option control to a path, or another name",
				name);
	path->sun_family = AF_UNIX;
	int written = snprintf(path->sun_path, sizeof(path->sun_path), folder ? "%s%s.sock" : "%s",
			       option, name);
	if (written >= (int)sizeof(path->sun_path))
		return kvx_fail(KVX_E_INVALID,
				"control: path \"%.128s\" has more than %zu characters, the most "
				"that a unix socket's may have; choose a shorter one",
				option, sizeof(path->sun_path) - 1);
	return 0;
}

static int fail_path(const struct sockaddr_un *path, const char *what)
{
	int error = errno;

	return kvx_fail(KVX_E_SYSTEM, "control: %s: %s: %s; choose another path for option control",
			path->sun_path, what, strerror(error));
}

/* Engines that begin to listen in one folder, or end, take turns: else one could take a socket for
 * dead that another has bound and not yet begun to listen on. -1: no such folder, or somebody holds
 * the lock. */
static int lock_folder(const struct sockaddr_un *path)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	char folder[sizeof(path->sun_path)];

	strcpy(folder, path->sun_path);
	char *slash = strrchr(folder, '/');
	if (slash)
		slash[slash == folder] = 0;
	int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	for (int i = 0; i < LOCK_TRIES; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return fd;
		nanosleep(&pause, NULL);
	}
	close(fd);
	errno = EWOULDBLOCK;
	return -1;
}

/* Nobody answers there: the one who listened is gone. A queue that is full belongs to one who
 * lives. */
static bool is_dead(const struct sockaddr_un *path)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return false;
	int result = connect(fd, (const struct sockaddr *)path, sizeof(*path));
	bool refused = result < 0 && errno == ECONNREFUSED;
	close(fd);
	return refused;
}

/* Removes what a dead engine of this user has left behind, and nothing else. */
static int remove_dead(const struct sockaddr_un *path)
{
	struct stat status;

	if (lstat(path->sun_path, &status) < 0)
		return errno == ENOENT ? 0 : fail_path(path, "cannot be looked at");
	if (!S_ISSOCK(status.st_mode))
		return kvx_fail(KVX_E_INVALID,
				"control: %s is there already and is no socket; choose another "
				"path for option control",
				path->sun_path);
	if (status.st_uid != geteuid())
		return kvx_fail(KVX_E_INVALID,
				"control: %s belongs to user %u; choose a folder that is this "
				"user's own",
				path->sun_path, (unsigned)status.st_uid);
	if (!is_dead(path))
		return kvx_fail(KVX_E_BUSY,
				"control: another process listens at %s; choose another path, or a "
				"folder (ending with /) and names that differ",
				path->sun_path);
	return unlink(path->sun_path) == 0 || errno == ENOENT
		       ? 0
		       : fail_path(path, "cannot be replaced");
}

/* The socket's mode becomes the file's, so there is no moment at which others may connect. */
static int bind_local(int fd, const struct sockaddr_un *path)
{
	int error = remove_dead(path);

	if (error)
		return error;
	if (fchmod(fd, S_IRUSR | S_IWUSR) < 0)
		return fail_path(path, "fchmod");
	if (bind(fd, (const struct sockaddr *)path, sizeof(*path)) < 0)
		return fail_path(path, "cannot be made");
	if (listen(fd, BACKLOG) == 0)
		return 0;
	error = fail_path(path, "cannot be listened on");
	unlink(path->sun_path);
	return error;
}

int kvx_listen_local(const char *option, const char *name, struct kvx_listener *listener)
{
	struct kvx_listener made = {.fd = -1};
	struct stat status;
	int error = make_path(option, name, &made.path);

	if (error)
		return error;
	int lock = lock_folder(&made.path);
	if (lock < 0)
		return fail_path(&made.path, errno == EWOULDBLOCK ? "its folder is locked"
								  : "its folder cannot be opened");
	made.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	error = made.fd < 0 ? fail_path(&made.path, "socket") : bind_local(made.fd, &made.path);
	if (!error && lstat(made.path.sun_path, &status) < 0)
		error = fail_path(&made.path, "was taken away");
	close(lock);
	if (error) {
		if (made.fd >= 0)
			close(made.fd);
		return error;
	}
	made.device = status.st_dev;
	made.inode = status.st_ino;
	snprintf(made.text, sizeof(made.text), "unix:%s", made.path.sun_path);
	*listener = made;
	return 0;
}

/* --- of the network --- */

static int fail_address(const char *option)
{
	return kvx_fail(KVX_E_INVALID,
			"control: option control_listen: \"%.64s\" is not HOST:PORT with an IP "
			"address; write 127.0.0.1:7400 or [::1]:7400",
			option);
}

/* Addresses are numbers: a name may become another address, and its look-up may block. */
static int parse(const char *option, struct sockaddr_storage *address, socklen_t *length)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				       .ai_flags = AI_NUMERICSERV | AI_NUMERICHOST | AI_PASSIVE};
	bool bracketed = option[0] == '[';
	const char *begin = option + bracketed;
	const char *end = strchr(begin, bracketed ? ']' : ':');
	struct addrinfo *found;
	char host[HOST_MAX];
	char *rest;

	if (!end || end == begin || (size_t)(end - begin) >= sizeof(host) || end[bracketed] != ':')
		return fail_address(option);
	memcpy(host, begin, (size_t)(end - begin));
	host[end - begin] = 0;
	const char *port = end + bracketed + 1;
	unsigned long number = strtoul(port, &rest, 10);
	if (*port < '0' || *port > '9' || *rest || number > UINT16_MAX)
		return fail_address(option);
	if (getaddrinfo(host, port, &hints, &found))
		return fail_address(option);
	memcpy(address, found->ai_addr, found->ai_addrlen);
	*length = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

static bool is_loopback(const struct sockaddr_storage *address)
{
	const struct sockaddr_in *v4 = (const void *)address;
	const struct sockaddr_in6 *v6 = (const void *)address;

	if (address->ss_family == AF_INET)
		return ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

static void write_url(const struct sockaddr_storage *address, socklen_t length, bool tls,
		      char *text)
{
	char host[HOST_MAX] = "?", port[8] = "?";
	bool v6 = address->ss_family == AF_INET6;

	getnameinfo((const struct sockaddr *)address, length, host, sizeof(host), port,
		    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
	snprintf(text, KVX_LISTENER_TEXT_MAX, "http%s://%s%s%s:%s", tls ? "s" : "", v6 ? "[" : "",
		 host, v6 ? "]" : "", port);
}

static int open_network(int fd, struct sockaddr_storage *address, socklen_t length)
{
	const int on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (address->ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, (const struct sockaddr *)address, length) < 0 || listen(fd, BACKLOG) < 0)
		return -1;
	return getsockname(fd, (struct sockaddr *)address, &length);
}

int kvx_listen_network(const char *option, bool tls, struct kvx_listener *listener)
{
	struct sockaddr_storage address = {0};
	socklen_t length = 0;
	int error = parse(option, &address, &length);

	if (error)
		return error;
	if (!tls && !is_loopback(&address))
		return kvx_fail(KVX_E_INVALID,
				"control: %.64s is beyond loopback, where only who has the "
				"cluster's secret may get in; set option secret_file, or listen on "
				"127.0.0.1 or ::1",
				option);
	int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || open_network(fd, &address, length) < 0) {
		error = kvx_fail(KVX_E_SYSTEM,
				 "control: cannot listen on %.64s: %s; choose another address or "
				 "port for option control_listen, or port 0 for a free one",
				 option, strerror(errno));
		if (fd >= 0)
			close(fd);
		return error;
	}
	*listener = (struct kvx_listener){.fd = fd};
	write_url(&address, length, tls, listener->text);
	return 0;
}

/* --- both --- */

void kvx_listener_close(struct kvx_listener *listener)
{
	const char *path = listener->path.sun_path;
	struct stat status;

	if (listener->fd < 0)
		return;
	if (*path) {
		int lock = lock_folder(&listener->path);
		if (lstat(path, &status) == 0 && status.st_dev == listener->device &&
		    status.st_ino == listener->inode)
			unlink(path);
		if (lock >= 0)
			close(lock);
	}
	close(listener->fd);
	listener->fd = -1;
}
