#include "experiments/cli/study.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    const enum feature_family f = map->spec.family;
    if (map->centred && (f == FEATURE_ELU1 || f == FEATURE_FAVOR || f == FEATURE_FAVOR_ORTH))
        return "only polynomial maps can be centred";
    return NULL;
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
    return map->kind == STUDY_FEATURE && map->spec.family != FEATURE_ELU1 &&
           map->spec.family != FEATURE_FAVOR && map->spec.family != FEATURE_FAVOR_ORTH;
}

static size_t power_degree(const struct study_map *map)
{
    if (map->kind == STUDY_CUMULANT) return 2;
    if (!is_polynomial(map)) return 0;
    const size_t degree = map->spec.order + (map->spec.family == FEATURE_SPLIT);
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
    if (map->kind != STUDY_FEATURE) return GSL_SUCCESS;
    switch (map->spec.family) {
    case FEATURE_ELU1: *feat_dim = dim; return GSL_SUCCESS;
    case FEATURE_FAVOR:
    case FEATURE_FAVOR_ORTH: *feat_dim = map->spec.order; return GSL_SUCCESS;
    default: return feature_count(dim, map->spec.order + (map->spec.family == FEATURE_SPLIT), feat_dim);
    }
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
        if (maps[i].kind != STUDY_FEATURE || is_polynomial(&maps[i])) continue;
        struct study_features *f = &s->features[i];
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

void study_free(struct study *s)
{
    for (size_t i = 0; s->features && i < s->num_maps; i++) {
        feature_map_free(s->features[i].map);
        free(s->features[i].Z);
        free(s->features[i].k);
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
        if (!f->map) continue;
        memcpy(to->features[i].Z, f->Z, f->r * from->dim * sizeof *f->Z);
        memcpy(to->features[i].k, f->k, f->r * sizeof *f->k);
    }
    return prefix_sums_copy(&to->sums, &from->sums);
}

int study_add(struct study *s, const double *Kp, const double *Vp, size_t count)
{
    int status = prefix_sums_add(&s->sums, s->Q, Kp, Vp, count);
    for (size_t i = 0; i < s->num_maps && !status; i++) {
        struct study_features *f = &s->features[i];
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
    *degree_den = map->spec.order;
    *degree_num = map->spec.order + (map->spec.family == FEATURE_SPLIT);
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
