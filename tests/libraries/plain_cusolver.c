/* A libcusolver.so.12 of a few functions; see plain_cublas.c. Its matrices are diagonal, and the
 * type of their cuSPARSE description is added to each solution. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { SUCCESS = 0, INVALID_VALUE = 3 };
struct description {
    int magic, type;
};
struct handle {
    int magic;
};
struct parameters {
    double tolerance;
    int iterations;
};

int cusolverDnCreate(struct handle** h) {
    *h = calloc(1, sizeof **h);
    (*h)->magic = 1;
    return SUCCESS;
}
int cusolverSpCreate(struct handle** h) {
    *h = calloc(1, sizeof **h);
    (*h)->magic = 2;
    return SUCCESS;
}
int cusolverSpDestroy(struct handle* h) {
    free(h);
    return SUCCESS;
}
static int solve(const struct handle* h, int m, int nnz, const struct description* d,
                 const double* values, const double* b, double* x, int* singularity) {
    if (h->magic != 2 || d->magic != 31 || nnz != m) return INVALID_VALUE;
    *singularity = -1;
    for (int i = 0; i < m; ++i) {
        if (values[i] == 0 && *singularity < 0) *singularity = i;
        x[i] = b[i] / values[i] + d->type;
    }
    return SUCCESS;
}
int cusolverSpDcsrlsvqr(struct handle* h, int m, int nnz, const struct description* d,
                        const double* values, const int* rows, const int* columns, const double* b,
                        double tolerance, int reorder, double* x, int* singularity) {
    return solve(h, m, nnz, d, values, b, x, singularity);
}
int cusolverSpDcsrlsvqrHost(struct handle* h, int m, int nnz, const struct description* d,
                            const double* values, const int* rows, const int* columns,
                            const double* b, double tolerance, int reorder, double* x,
                            int* singularity) {
    if (rows[m] != nnz || columns[nnz - 1] != m - 1) return INVALID_VALUE;
    return solve(h, m, nnz, d, values, b, x, singularity);
}
int cusolverDnIRSParamsCreate(struct parameters** p) {
    *p = calloc(1, sizeof **p);
    return SUCCESS;
}
int cusolverDnIRSParamsSetTol(struct parameters* p, double tolerance) {
    p->tolerance = tolerance;
    return SUCCESS;
}
int cusolverDnIRSParamsSetMaxIters(struct parameters* p, int iterations) {
    p->iterations = iterations;
    return SUCCESS;
}
int cusolverDnIRSParamsGetMaxIters(struct parameters* p, int* iterations) {
    *iterations = p->tolerance == 0.5 ? p->iterations : -1;
    return SUCCESS;
}
/* The limits, of the type of the eigenvalues, are on the host; so is how many were found. */
int cusolverDnXsyevdx(struct handle* h, void* params, int jobz, int range, int uplo, int64_t n,
                      int type_a, void* a, int64_t lda, const void* low, const void* high,
                      int64_t il, int64_t iu, int64_t* found, int type_w, void* w, int compute,
                      void* device, size_t device_size, void* host, size_t host_size, int* info) {
    if (h->magic != 1 || (type_w != 0 && type_w != 1) || !host) return INVALID_VALUE;
    *found = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double value = type_w == 1 ? ((double*)a)[i] : (double)((float*)a)[i];
        const double from = type_w == 1 ? *(const double*)low : (double)*(const float*)low;
        const double to = type_w == 1 ? *(const double*)high : (double)*(const float*)high;
        if (value > from && value <= to) ++*found;
    }
    *info = 0;
    return SUCCESS;
}
