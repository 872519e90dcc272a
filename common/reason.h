/* Why something was refused: one line for a person, in the caller's buffer. */
#ifndef COMMON_REASON_H
#define COMMON_REASON_H
#include <stddef.h>

struct reason { char *text; size_t size; };

/* Beside GSL's codes: the system failed (EIO, EMFILE, ...), whatever the data are like. */
enum { REASON_SYSTEM = 1024 };

/* Formats the line and returns `code`, for `return refuse(why, GSL_EINVAL, ...)`. Control characters, which names taken
 * from a file may have, become "?": it stays one line. */
int refuse(struct reason why, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
