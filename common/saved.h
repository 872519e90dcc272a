/* Sums as bytes, for another process or a later one: what they are, their numbers, a checksum.
 *
 *   offset  bytes
 *        0      8  "PNTKSUM" and a line feed
 *        8      4  0x0a0b0c0d in the byte order of all that follows
 *       12      4  version of this layout, 1
 *       16      8  kind, in letters, zeros behind
 *       24      8  size of everything, the checksum included
 *       32      8  FNV-1a of what the sums are of (the numbers of a map, the inputs)
 *       40     64  eight sizes of the kind's own
 *      104         doubles
 *   size-8      8  FNV-1a of all bytes before: no single byte can change unnoticed
 *
 * Integers are unsigned. Bytes of another byte order are refused, not turned. */
#ifndef COMMON_SAVED_H
#define COMMON_SAVED_H
#include <stddef.h>
#include <stdint.h>

enum { SAVED_SIZES = 8, SAVED_HEAD = 104, SAVED_VERSION = 1 };

/* Bytes of `numbers` doubles with all around them; SIZE_MAX when that overflows. */
size_t saved_size(size_t numbers);

/* Writes everything but the doubles, which the caller has put at bytes + SAVED_HEAD (saved_numbers),
 * into bytes of `size` = saved_size(...). */
void saved_seal(void *bytes, size_t size, const char *kind, uint64_t identity, const uint64_t sizes[SAVED_SIZES]);

/* GSL_ESANITY: not such bytes, of another version or byte order, damaged or cut off; GSL_EINVAL: of
 * another kind or identity. sizes receives the eight on success. */
int saved_check(const void *bytes, size_t size, const char *kind, uint64_t identity, uint64_t sizes[SAVED_SIZES]);

static inline void *saved_numbers(void *bytes) { return (char *)bytes + SAVED_HEAD; }

#endif
