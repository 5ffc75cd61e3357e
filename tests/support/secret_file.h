/* SPDX-License-Identifier: Apache-2.0 */
/* Files with secrets, of mode 0600, for the process's life. */
#ifndef KVX_TESTS_SECRET_FILE_H
#define KVX_TESTS_SECRET_FILE_H

#define SECRET_FILE_PATH 64

/* Makes a file with these lines; path: where it is. */
void secret_file_make(char path[SECRET_FILE_PATH], const char *text);

/* Puts another one in its place, at once. */
void secret_file_change(const char *path, const char *text);

#endif
