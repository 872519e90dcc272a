#include "approximation/study.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>

const char *study_map_parse(const char *text, struct study_map *map)
{
    *map = (struct study_map){ 0 };
    if (strlen(text) >= sizeof map->name) return "unknown feature map";
    strcpy(map->name, text);
    if (!strcmp(text, "none")) return NULL;
    if (!strcmp(text, "cumulant")) {
        map->kind = STUDY_CUMULANT;
        return NULL;
    }
    if (!strncmp(text, "oracle:", 7)) {
        const size_t digits = strspn(text + 7, "0123456789");
        if (!digits || digits > 6 || text[7 + digits]) return "oracle:R needs a rank";
        map->kind = STUDY_ORACLE;
        map->rank = strtoul(text + 7, NULL, 10);
        return map->rank ? NULL : "oracle:R needs a rank of at least 1";
    }
    if (!strncmp(text, "clusters:", 9)) {
        const size_t digits = strspn(text + 9, "0123456789");
        if (!digits || digits > 6 || text[9 + digits]) return "clusters:R needs a number";
        map->kind = STUDY_CLUSTERS;
        map->rank = strtoul(text + 9, NULL, 10);
        return map->rank ? NULL : "clusters:R needs a number of at least 1";
    }
    char base[sizeof map->name];
    strcpy(base, text);
    char *at = strchr(base, '@');
    if (at) {
        if (strcmp(at, "@centred")) return "unknown feature map";
        *at = '\0';
        map->centred = 1;
    }
    map->kind = STUDY_FEATURE;
    const int status = feature_spec_parse(base, &map->spec);
    if (status) return feature_strerror(status);
    return map->centred && !feature_spec_is_polynomial(&map->spec) ? "only polynomial maps can be centred" : NULL;
}

const char *study_maps_parse(const char *text, struct study_map **maps, size_t *count)
{
    char *copy = strdup(text), *save = NULL;
    const char *why = NULL;
    *maps = NULL;
    *count = 0;
    if (!copy) return "out of memory";
    /* strtok would pass over empty names. */
    if (!*text || text[0] == ',' || text[strlen(text) - 1] == ',' || strstr(text, ",,")) why = "an empty name";
    for (char *t = why ? NULL : strtok_r(copy, ",", &save); t && !why; t = strtok_r(NULL, ",", &save)) {
        struct study_map *grown = realloc(*maps, (*count + 1) * sizeof **maps);
        if (!grown) {
            why = "out of memory";
            break;
        }
        *maps = grown;
        why = study_map_parse(t, &grown[(*count)++]);
    }
    free(copy);
    if (why) {
        free(*maps);
        *maps = NULL;
    }
    return why;
}

/* Polynomial in the score, so that power sums serve it. */
static int is_polynomial(const struct study_map *map)
{
    return map->kind == STUDY_FEATURE && feature_spec_is_polynomial(&map->spec);
}

static size_t power_degree(const struct study_map *map)
{
    if (map->kind == STUDY_CUMULANT) return 2;
    size_t degree, mass_degree;
    if (!is_polynomial(map) || feature_degrees(&map->spec, &degree, &mass_degree)) return 0;
    return map->centred && degree < 1 ? 1 : degree;
}

int study_map_dim(const struct study_map *map, size_t dim, size_t *feat_dim)
{
    *feat_dim = 0;
    if (map->kind == STUDY_ORACLE) *feat_dim = map->rank;
    if (map->kind == STUDY_CUMULANT) {
        const size_t numbers = 2 * dim + dim * dim + dim * (dim + 1) / 2 + 1;
        *feat_dim = (numbers + dim) / (dim + 1);
    }
    if (map->kind == STUDY_CLUSTERS) *feat_dim = (map->rank * (2 * dim + 1) + dim) / (dim + 1);
    return map->kind == STUDY_FEATURE ? feature_spec_dim(&map->spec, dim, feat_dim) : GSL_SUCCESS;
}

int study_map_fits(const struct study_map *map)
{
    return map->kind == STUDY_FEATURE && !map->centred;
}

int study_alloc(struct study *s, const struct study_map *maps, size_t num_maps, const double *Q,
                size_t num_queries, size_t dim, const double *shift, uint64_t seed)
{
    *s = (struct study){ .num_maps = num_maps, .num_queries = num_queries, .dim = dim, .maps = maps,
                         .Q = Q, .seed = seed };
    size_t degree = 0, widest = 1;
    int gram = 0, status = GSL_ENOMEM;
    if (!(s->features = calloc(num_maps + 1, sizeof *s->features))) goto failed;
    for (size_t i = 0; i < num_maps; i++) {
        if (power_degree(&maps[i]) > degree) degree = power_degree(&maps[i]);
        gram |= maps[i].kind == STUDY_ORACLE;
        struct study_features *f = &s->features[i];
        if (maps[i].kind == STUDY_CLUSTERS) {
            f->r = maps[i].rank;
            f->Z = calloc(f->r * dim, sizeof *f->Z);
            f->k = calloc(f->r * dim, sizeof *f->k);
            f->count = calloc(f->r, sizeof *f->count);
            if (!f->Z || !f->k || !f->count) goto failed;
            if (f->r > widest) widest = f->r;
        }
        if (maps[i].kind != STUDY_FEATURE || is_polynomial(&maps[i])) continue;
        if ((status = feature_map_alloc(&maps[i].spec, dim, 0.0, seed, NULL, &f->map))) goto failed;
        f->r = feature_dim(f->map);
        f->Z = calloc(f->r * dim, sizeof *f->Z);
        f->k = calloc(f->r, sizeof *f->k);
        status = GSL_ENOMEM;
        if (!f->Z || !f->k) goto failed;
        if (f->r > widest) widest = f->r;
    }
    status = prefix_sums_alloc(&s->sums, num_queries, dim, 1.0 / sqrt((double)dim), degree, NULL, 0, shift, gram);
    if (status) goto failed;
    status = GSL_ENOMEM;
    if (!(s->phi = malloc(PREFIX_SUMS_BLOCK * widest * sizeof *s->phi))) goto failed;
    return GSL_SUCCESS;
failed:
    study_free(s);
    return status;
}

size_t study_bytes(const struct study_map *maps, size_t num_maps, size_t num_queries, size_t dim)
{
    size_t degree = 0, widest = 1, summaries = 0;
    int gram = 0;
    for (size_t i = 0; i < num_maps; i++) {
        size_t r = 0;
        if (power_degree(&maps[i]) > degree) degree = power_degree(&maps[i]);
        gram |= maps[i].kind == STUDY_ORACLE;
        if (maps[i].kind == STUDY_CLUSTERS) r = maps[i].rank;
        else if (maps[i].kind == STUDY_FEATURE && !is_polynomial(&maps[i]) && study_map_dim(&maps[i], dim, &r)) r = 0;
        summaries += r * (2 * dim + 1);
        if (r > widest) widest = r;
    }
    return prefix_sums_bytes(num_queries, dim, degree, 1, gram)
        + (summaries + PREFIX_SUMS_BLOCK * widest) * sizeof(double);
}

void study_free(struct study *s)
{
    for (size_t i = 0; s->features && i < s->num_maps; i++) {
        feature_map_free(s->features[i].map);
        free(s->features[i].Z);
        free(s->features[i].k);
        free(s->features[i].count);
    }
    free(s->features);
    free(s->phi);
    prefix_sums_free(&s->sums);
    *s = (struct study){ 0 };
}

int study_copy(struct study *to, const struct study *from)
{
    for (size_t i = 0; i < from->num_maps; i++) {
        const struct study_features *f = &from->features[i];
        if (f->count) {
            memcpy(to->features[i].Z, f->Z, f->r * from->dim * sizeof *f->Z);
            memcpy(to->features[i].k, f->k, f->r * from->dim * sizeof *f->k);
            memcpy(to->features[i].count, f->count, f->r * sizeof *f->count);
        }
        if (!f->map) continue;
        memcpy(to->features[i].Z, f->Z, f->r * from->dim * sizeof *f->Z);
        memcpy(to->features[i].k, f->k, f->r * sizeof *f->k);
    }
    return prefix_sums_copy(&to->sums, &from->sums);
}

/* The first r tokens are clusters of their own; every later one joins the cluster of the nearest mean
 * key, as the means stood before its block. */
static void add_to_clusters(struct study_features *f, size_t dim, size_t first, const double *Kp, const double *Vp,
                            size_t count, double *dots)
{
    size_t seeds = first < f->r ? f->r - first : 0;
    if (seeds > count) seeds = count;
    memcpy(f->k + first * dim, Kp, seeds * dim * sizeof *Kp);
    memcpy(f->Z + first * dim, Vp, seeds * dim * sizeof *Vp);
    for (size_t j = 0; j < seeds; j++) f->count[first + j] = 1.0;
    if (seeds == count) return;
    const double *K = Kp + seeds * dim;
    const size_t n = count - seeds;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)f->r, (int)dim, 1.0, K, (int)dim, f->k, (int)dim,
                0.0, dots, (int)f->r);
    for (size_t c = 0; c < f->r; c++) {
        const double half = 0.5 * cblas_ddot((int)dim, f->k + c * dim, 1, f->k + c * dim, 1);
        for (size_t j = 0; j < n; j++) dots[j * f->r + c] -= half;
    }
    for (size_t j = 0; j < n; j++) {
        size_t best = 0;
        for (size_t c = 1; c < f->r; c++)
            if (dots[j * f->r + c] > dots[j * f->r + best]) best = c;
        const double step = 1.0 / ++f->count[best];
        for (size_t i = 0; i < dim; i++) {
            f->k[best * dim + i] += step * (K[j * dim + i] - f->k[best * dim + i]);
            f->Z[best * dim + i] += step * (Vp[(seeds + j) * dim + i] - f->Z[best * dim + i]);
        }
    }
}

/* Exact attention to the mean tokens, each counted as often as it has members. */
static int cluster_sums(const struct study *s, const struct study_features *f, struct attn_sums *out)
{
    const size_t n = s->num_queries, d = s->dim;
    double *t = malloc(n * f->r * sizeof *t);
    if (!t) return GSL_ENOMEM;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)f->r, (int)d, s->sums.scale, s->Q, (int)d, f->k,
                (int)d, 0.0, t, (int)f->r);
    for (size_t i = 0; i < n; i++) {
        double top = -INFINITY;
        out->mass[i] = 0.0;
        memset(out->num + i * d, 0, d * sizeof *out->num);
        for (size_t c = 0; c < f->r; c++)
            if (f->count[c] > 0.0) top = fmax(top, t[i * f->r + c]);
        for (size_t c = 0; c < f->r; c++) {
            if (!(f->count[c] > 0.0)) continue;
            const double w = f->count[c] * exp(t[i * f->r + c] - top);
            out->mass[i] += w;
            cblas_daxpy((int)d, w, f->Z + c * d, 1, out->num + i * d, 1);
        }
        out->shift[i] = top;
    }
    free(t);
    return GSL_SUCCESS;
}

int study_add(struct study *s, const double *Kp, const double *Vp, size_t count)
{
    const size_t first = s->sums.prefix_len;
    int status = prefix_sums_add(&s->sums, s->Q, Kp, Vp, count);
    for (size_t i = 0; i < s->num_maps && !status; i++) {
        struct study_features *f = &s->features[i];
        if (f->count) add_to_clusters(f, s->dim, first, Kp, Vp, count, s->phi);
        if (!f->map) continue;
        status = feature_forward_f64(f->map, FEATURE_VALUE, count, Kp, s->dim, s->phi, f->r, NULL, 1, NULL);
        if (!status) summary_add(s->phi, Vp, count, f->r, s->dim, f->Z, f->k);
    }
    return status;
}

int study_read(struct study *s, struct source *source, size_t len)
{
    const size_t size = PREFIX_SUMS_BLOCK * s->dim;
    double *Kp = malloc(2 * size * sizeof *Kp), *Vp = Kp + size;
    int status = Kp ? GSL_SUCCESS : GSL_ENOMEM;
    while (s->sums.prefix_len < len && !status) {
        const size_t first = s->sums.prefix_len;
        size_t end = prefix_sums_block_end(first);
        if (end > len) end = len;
        status = source_prefix(source, first, end - first, Kp, Vp);
        if (!status) status = study_add(s, Kp, Vp, end - first);
    }
    free(Kp);
    return status;
}

/* Coefficients of numerator and denominator with their degrees. */
static int coefficients(const struct study_map *map, double bound, double *num, size_t *degree_num,
                        double *den, size_t *degree_den)
{
    const int status = feature_degrees(&map->spec, degree_num, degree_den);
    if (status) return status;
    return feature_polynomial(&map->spec, bound, num, den, NULL);
}

int study_sums(const struct study *s, size_t i, double bound, struct attn_sums *out, int *exists)
{
    const struct study_map *map = &s->maps[i];
    double num[FEATURE_MAX_DEGREE + 2], den[FEATURE_MAX_DEGREE + 2];
    size_t degree_num, degree_den;
    int status;
    *exists = map->kind != STUDY_NONE;
    switch (map->kind) {
    case STUDY_NONE: return GSL_SUCCESS;
    case STUDY_ORACLE: return prefix_sums_oracle(&s->sums, 0, map->rank, out);
    case STUDY_CLUSTERS: return cluster_sums(s, &s->features[i], out);
    case STUDY_CUMULANT: return prefix_sums_cumulant(&s->sums, 1.0, out);
    case STUDY_FEATURE: break;
    }
    if (is_polynomial(map)) {
        if ((status = coefficients(map, bound, num, &degree_num, den, &degree_den))) return status;
        return prefix_sums_polynomial(&s->sums, 1.0, map->centred, num, degree_num, den, degree_den, out);
    }
    double *phi;
    size_t r;
    if ((status = study_query_features(map, s->Q, s->num_queries, s->dim, 0.0, s->seed, &phi, &r))) return status;
    summary_apply(phi, r, s->features[i].Z, s->features[i].k, out);
    free(phi);
    return GSL_SUCCESS;
}

int study_query_features(const struct study_map *map, const double *Q, size_t n, size_t dim,
                         double bound, uint64_t seed, double **phi, size_t *r)
{
    feature_map *fm;
    *phi = NULL;
    if (!study_map_fits(map)) return GSL_EINVAL;
    int status = feature_map_alloc(&map->spec, dim, bound, seed, NULL, &fm);
    if (status) return status;
    *r = feature_dim(fm);
    if (!(*phi = malloc((n * *r + 1) * sizeof **phi))) status = GSL_ENOMEM;
    if (!status) status = feature_forward_f64(fm, FEATURE_QUERY, n, Q, dim, *phi, *r, NULL, 1, NULL);
    feature_map_free(fm);
    if (status) {
        free(*phi);
        *phi = NULL;
    }
    return status;
}
