#include "data/json_file.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <stdlib.h>

#include "common/input_file.h"

int json_text_read(const char *text, size_t size, json_t **out, struct reason why)
{
    json_error_t error;
    errno = 0;
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (*out) return GSL_SUCCESS;
    /* Without memory the reader may call the text malformed. */
    if (errno == ENOMEM) return refuse(why, GSL_ENOMEM, "out of memory");
    return refuse(why, GSL_EINVAL, "line %d is not JSON: %.120s", error.line, error.text);
}

int json_file_read(const char *path, json_t **out, struct reason why)
{
    unsigned char *text;
    size_t size;
    *out = NULL;
    int status = input_file_whole(path, &text, &size, why);
    if (!status) status = json_text_read((const char *)text, size, out, why);
    free(text);
    return status;
}

int json_object_read(const char *path, json_t **out, struct reason why)
{
    const int status = json_file_read(path, out, why);
    if (status || json_is_object(*out)) return status;
    json_decref(*out);
    *out = NULL;
    return refuse(why, GSL_EINVAL, "not a JSON object");
}
