/* Fuzz targets have libFuzzer's entry point, so that it can drive them where clang is
 * at hand; the driver in fuzz_driver.c, which every compiler builds, mutates the seeds a
 * target names. Best run with SAN=address. */
#ifndef TESTS_SUPPORT_FUZZ_H
#define TESTS_SUPPORT_FUZZ_H
#include <stddef.h>
#include <stdint.h>

struct fuzz_seed { const void *bytes; size_t size; };

/* Defined by each target. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
extern const struct fuzz_seed fuzz_seeds[];
extern const size_t fuzz_num_seeds;

/* A path that reads as a regular file of these bytes, until the next call. */
const char *fuzz_file(const uint8_t *bytes, size_t size);

/* A folder for this run, removed at its end. */
const char *fuzz_folder(void);
/* The file `name` in it has these bytes from now on. */
void fuzz_put(const char *name, const void *bytes, size_t size);
/* The bytes as a string; the caller frees. */
char *fuzz_text(const uint8_t *bytes, size_t size);

#endif
