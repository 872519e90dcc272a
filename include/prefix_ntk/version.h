#ifndef PREFIX_NTK_VERSION_H
#define PREFIX_NTK_VERSION_H
#include "prefix_ntk/export.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of these headers ... */
#define PREFIX_NTK_VERSION "0.1.0"
/* ... and of the library that is linked, in the same form; a constant. */
PREFIX_NTK_API const char *prefix_ntk_version(void);

#ifdef __cplusplus
}
#endif

#endif
