#include "common/reason.h"

#include <stdarg.h>
#include <stdio.h>

int refuse(struct reason why, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why.text, why.size, format, args);
    va_end(args);
    for (char *c = why.text; why.size && *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
    return code;
}
