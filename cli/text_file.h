/* Small text files as strings. */
#ifndef CLI_TEXT_FILE_H
#define CLI_TEXT_FILE_H

/* The whole file, NUL-terminated; the caller frees it. NULL with errno set when it
 * cannot be read, EINVAL when it holds a NUL. */
char *text_file_read(const char *path);

#endif
