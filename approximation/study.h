/* The maps an approximation study compares, and one pass over a prefix that serves them all. */
#ifndef CLI_STUDY_H
#define CLI_STUDY_H
#include <stddef.h>
#include <stdint.h>

#include "approximation/approx.h"
#include "approximation/source.h"
#include "prefix_ntk/feature.h"

enum study_kind {
    STUDY_NONE,                /* "none": no prefix at all */
    STUDY_FEATURE,             /* a feature map by its name; "NAME@centred" about the mean key */
    STUDY_ORACLE,              /* "oracle:R": the best factorisation of rank R on these queries */
    STUDY_CUMULANT,            /* "cumulant": the Gaussian of the prefix's moments */
    STUDY_CLUSTERS             /* "clusters:R": R tokens with weights, the means of clusters of keys */
};

struct study_map {
    char name[32];
    enum study_kind kind;
    int centred;
    size_t rank;
    struct feature_spec spec;
};

/* NULL, or what is wrong with `text`. */
const char *study_map_parse(const char *text, struct study_map *map);

/* A comma-separated list; *maps to be freed. NULL, or what is wrong. */
const char *study_maps_parse(const char *text, struct study_map **maps, size_t *count);

/* r; for the cumulant summary and for clusters the r whose (Z, k) has as many numbers; 0 for none. */
int study_map_dim(const struct study_map *map, size_t dim, size_t *feat_dim);

/* Whether (Z, k) of this map can be fitted: a listed feature map, not centred. */
int study_map_fits(const struct study_map *map);

struct study {
    size_t num_maps, num_queries, dim;
    const struct study_map *maps;
    const double *Q;
    uint64_t seed;
    struct prefix_sums sums;
    /* Maps that are not polynomial: (Z, k); for clusters the mean values and keys (r, dim) and the counts. */
    struct study_features { feature_map *map; size_t r; double *Z, *k, *count; } *features;
    double *phi;               /* (PREFIX_SUMS_BLOCK, largest r) */
};

/* Q (num_queries, dim) is kept, not copied; shift as in prefix_sums_alloc. */
int study_alloc(struct study *s, const struct study_map *maps, size_t num_maps, const double *Q,
                size_t num_queries, size_t dim, const double *shift, uint64_t seed);
/* Its bytes, those of the features' own state aside; at most. */
size_t study_bytes(const struct study_map *maps, size_t num_maps, size_t num_queries, size_t dim);
void study_free(struct study *s);
int study_copy(struct study *to, const struct study *from);
/* count <= PREFIX_SUMS_BLOCK tokens. */
int study_add(struct study *s, const double *Kp, const double *Vp, size_t count);

/* Reads on until the prefix has `len` tokens. */
int study_read(struct study *s, struct source *source, size_t len);

/* What map number i makes of the prefix so far. bound: B of cheb and minimax. *exists is 0
 * for "none", whose sums are nothing. GSL_EMAXITER as feature_polynomial. */
int study_sums(const struct study *s, size_t i, double bound, struct attn_sums *out, int *exists);

/* phi of n queries for a map that fits; *phi (n, *r) to be freed. */
int study_query_features(const struct study_map *map, const double *Q, size_t n, size_t dim,
                         double bound, uint64_t seed, double **phi, size_t *r);

#endif
