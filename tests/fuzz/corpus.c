/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fuzz target without libFuzzer: runs it over files, so that each input that was worth keeping is
 * a test under every compiler; and writes its seeds.
 *
 *	fuzz-corpus-TARGET FILE|FOLDER ...
 *	fuzz-corpus-TARGET --seeds FOLDER
 */
#include "target.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#define FILE_BYTES_MAX (1u << 20)
#define PATH_BYTES 4096

static const char *seed_folder;
static unsigned inputs;

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(2);
}

/* An input of its own allocation, so that a read beyond it is noticed. */
static void run_file(const char *path)
{
	static uint8_t room[FILE_BYTES_MAX];
	FILE *file = fopen(path, "rb");

	if (!file)
		fail(path);
	size_t size = fread(room, 1, sizeof(room), file);
	fclose(file);
	uint8_t *bytes = malloc(size ? size : 1);
	if (!bytes)
		fail(path);
	memcpy(bytes, room, size);
	fprintf(stderr, "%s\n", path); /* the last one that is named is the one that failed */
	LLVMFuzzerTestOneInput(bytes, size);
	free(bytes);
	inputs++;
}

static int is_shown(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void run_folder(const char *folder)
{
	struct dirent **entries;
	char path[PATH_BYTES];
	int count = scandir(folder, &entries, is_shown, alphasort);

	if (count < 0)
		fail(folder);
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, entries[i]->d_name);
		run_file(path);
		free(entries[i]);
	}
	free(entries);
}

static void run(const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0)
		fail(path);
	if (S_ISDIR(status.st_mode))
		run_folder(path);
	else
		run_file(path);
}

static void write_seed(const char *name, const void *bytes, size_t size)
{
	char path[PATH_BYTES];

	snprintf(path, sizeof(path), "%s/seed-%s", seed_folder, name);
	FILE *file = fopen(path, "wb");
	if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0)
		fail(path);
	inputs++;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "--seeds") == 0) {
		seed_folder = argv[2];
		fuzz_give_seeds(write_seed);
		printf("%u seeds\n", inputs);
		return 0;
	}
	for (int i = 1; i < argc; i++)
		run(argv[i]);
	printf("%u inputs\n", inputs);
	return inputs == 0;
}
