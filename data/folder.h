/* Where data lie. */
#ifndef DATA_FOLDER_H
#define DATA_FOLDER_H
#include <limits.h>

/* The folder of set `name` in the cache: in PREFIX_NTK_DATA, else in data/cache below the working folder or beside
 * the build the program lies in. It need not exist. */
void data_folder(const char *name, char folder[PATH_MAX]);

/* The folder of a committed backbone: data/backbones/NAME below the working folder or beside the build, else where
 * installed programs have it, share/prefix_ntk/backbones beside their bin. */
void data_committed(const char *name, char folder[PATH_MAX]);

#endif
