/* JSON that others wrote. */
#ifndef DATA_JSON_FILE_H
#define DATA_JSON_FILE_H
#include <jansson.h>
#include <stddef.h>
#include "common/reason.h"

/* The value in `size` bytes of text, in which no key may stand twice; the caller's to json_decref. GSL_EINVAL it is not
 * JSON, GSL_ENOMEM; one line in *why. */
int json_text_read(const char *text, size_t size, json_t **out, struct reason why);

/* The same of a file; also GSL_EFAILED it cannot be opened, REASON_SYSTEM the system failed. */
int json_file_read(const char *path, json_t **out, struct reason why);

/* The same where only an object will do. */
int json_object_read(const char *path, json_t **out, struct reason why);

#endif
