/* Marks the public symbols: everything else is hidden in the shared library. */
#ifndef PREFIX_NTK_EXPORT_H
#define PREFIX_NTK_EXPORT_H

#if defined(__GNUC__)
#define PREFIX_NTK_API __attribute__((visibility("default")))
#else
#define PREFIX_NTK_API
#endif

#endif
