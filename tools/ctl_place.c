/* SPDX-License-Identifier: Apache-2.0 */
/* Where engines listen: sockets, folders of them, URLs with what a secret gives. */
#include "ctl.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKETS_MAX 4096u
#define SHOWN_MAX 16u

static int find_url(const char *text, const char *secret_file, struct ctl_place *place)
{
	bool is_secure = strncmp(text, "https://", 8) == 0;
	size_t length = strlen(text);

	if (is_secure && !secret_file)
		return ctl_fail(CTL_USAGE,
				"%s: needs the cluster's secret: give --secret FILE, the engine's "
				"secret_file",
				text);
	if (!is_secure && secret_file)
		return ctl_fail(CTL_USAGE, "%s: with a secret an engine listens on https://", text);
	while (length && text[length - 1] == '/')
		length--;
	if (length >= sizeof(place->url) || strpbrk(text, " \t\r\n?#@"))
		return ctl_fail(CTL_USAGE, "%s: must be https://HOST:PORT, or http://HOST:PORT",
				text);
	snprintf(place->url, sizeof(place->url), "%.*s", (int)length, text);
	if (is_secure && kvx_control_credentials(secret_file, place->token, place->pinned))
		return ctl_fail(CTL_USAGE, "%s", kvx_error_text());
	return 0;
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_socket(const char *folder, const char *name)
{
	char path[CTL_PATH_MAX];
	struct stat status;

	return snprintf(path, sizeof(path), "%s/%s", folder, name) < (int)sizeof(path) &&
	       stat(path, &status) == 0 && S_ISSOCK(status.st_mode);
}

bool ctl_place_list(const char *folder, char ***names, uint32_t *count)
{
	DIR *open = opendir(folder);
	char **found = calloc(SOCKETS_MAX, sizeof(*found));
	const struct dirent *entry;
	uint32_t seen = 0;

	if (open && found) {
		while (seen < SOCKETS_MAX && (entry = readdir(open)))
			if (is_socket(folder, entry->d_name) &&
			    (found[seen] = strdup(entry->d_name)))
				seen++;
		qsort((void *)found, seen, sizeof(*found), compare);
	}
	if (open)
		closedir(open);
	if (!open || !found) {
		free((void *)found);
		return false;
	}
	*names = found;
	*count = seen;
	return true;
}

static int take_socket(const char *path, struct ctl_place *place)
{
	if (strlen(path) >= sizeof(place->socket))
		return ctl_fail(CTL_USAGE,
				"%s: is longer than the %zu characters that a socket's "
				"path may have: name it from a nearer folder",
				path, sizeof(place->socket) - 1);
	strcpy(place->socket, path);
	strcpy(place->url, "http://kvxfer");
	return 0;
}

/* What an engine that was killed leaves behind is refused. */
static bool is_listened_on(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (strlen(path) >= sizeof(address.sun_path) || fd < 0) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	strcpy(address.sun_path, path);
	bool is_refused = connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0 &&
			  errno == ECONNREFUSED;
	close(fd);
	return !is_refused;
}

/* The names of those that are listened on go to text, one after another. */
static uint32_t pick(const char *folder, char **names, uint32_t count, char *text, char *one)
{
	uint32_t alive = 0;
	size_t bytes = 0;

	for (uint32_t i = 0; i < count; i++) {
		char path[CTL_PATH_MAX];
		if (snprintf(path, sizeof(path), "%s/%s", folder, names[i]) >= (int)sizeof(path) ||
		    !is_listened_on(path))
			continue;
		strcpy(one, path);
		if (alive < SHOWN_MAX && bytes + strlen(names[i]) + 3 < CTL_TEXT_MAX)
			bytes += (size_t)snprintf(text + bytes, CTL_TEXT_MAX - bytes, "%s%s",
						  alive ? ", " : "", names[i]);
		alive++;
	}
	return alive;
}

static int find_in_folder(const char *folder, struct ctl_place *place)
{
	char **names, text[CTL_TEXT_MAX] = "", one[CTL_PATH_MAX] = "", clean[CTL_PATH_MAX];
	uint32_t count;
	size_t length = strlen(folder);

	while (length > 1 && folder[length - 1] == '/')
		length--;
	snprintf(clean, sizeof(clean), "%.*s", (int)length, folder);
	if (!ctl_place_list(clean, &names, &count))
		return ctl_fail(CTL_UNREACHED, "%s: %s", folder, strerror(errno));
	uint32_t alive = pick(clean, names, count, text, one);
	for (uint32_t i = 0; i < count; i++)
		free(names[i]);
	free((void *)names);
	if (alive > 1)
		return ctl_fail(CTL_USAGE, "%s: holds %u engines: name one of %s%s", folder, alive,
				text, alive > SHOWN_MAX ? ", ..." : "");
	if (!alive)
		return ctl_fail(CTL_UNREACHED,
				"%s: holds no socket that an engine listens on%s: start one with "
				"option control=%s/",
				folder, count ? ", only what dead ones left behind" : "", clean);
	snprintf(place->name, sizeof(place->name), "%s", one);
	return take_socket(one, place);
}

int ctl_place_find(const char *text, const char *secret_file, struct ctl_place *place)
{
	struct stat status;

	memset(place, 0, sizeof(*place));
	snprintf(place->name, sizeof(place->name), "%s", text);
	if (strncmp(text, "http://", 7) == 0 || strncmp(text, "https://", 8) == 0)
		return find_url(text, secret_file, place);
	if (strlen(text) >= sizeof(place->name))
		return ctl_fail(CTL_USAGE, "the path of the socket is too long");
	if (stat(text, &status) != 0)
		return ctl_fail(CTL_UNREACHED, "%s: %s%s", text, strerror(errno),
				errno == ENOENT
					? ": is the engine running, with option control set to it?"
					: ": be the engine's user, or root");
	if (S_ISDIR(status.st_mode))
		return find_in_folder(text, place);
	if (!S_ISSOCK(status.st_mode))
		return ctl_fail(CTL_USAGE, "%s: is neither a socket nor a folder", text);
	return take_socket(text, place);
}
