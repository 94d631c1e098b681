/* A libcublasLt.so.13 of a few functions; see plain_cublas.c. Descriptors made by Init lie in
 * memory that belongs to the caller, as NVIDIA's do. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };

struct desc { /* of a product or a layout */
    uint32_t compute, scale, type, transposed;
    uint64_t rows, cols;
    int64_t ld;
    const float* bias; /* device */
};
struct algo {
    uint64_t data[8];
};
struct result {
    struct algo algo;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

int cublasLtCreate(void** h) {
    *h = malloc(16);
    return SUCCESS;
}
int cublasLtDestroy(void* h) {
    free(h);
    return SUCCESS;
}
size_t cublasLtGetVersion(void) {
    return 130100;
}

int cublasLtMatmulDescInit_internal(struct desc* d, size_t size, uint32_t compute, uint32_t scale) {
    if (size < sizeof *d) return INVALID_VALUE;
    memset(d, 0, size);
    d->compute = compute;
    d->scale = scale;
    return SUCCESS;
}
/* For the tests: how many have been made, and how many of them destroyed. */
static size_t made, destroyed;
int cublasLtHeuristicsCacheGetCapacity(size_t* capacity) {
    *capacity = made << 32 | destroyed;
    return SUCCESS;
}

int cublasLtMatmulDescCreate(struct desc** d, uint32_t compute, uint32_t scale) {
    ++made;
    *d = malloc(sizeof **d);
    return cublasLtMatmulDescInit_internal(*d, sizeof **d, compute, scale);
}
int cublasLtMatmulDescDestroy(struct desc* d) {
    ++destroyed;
    free(d);
    return SUCCESS;
}
int cublasLtMatmulDescSetAttribute(struct desc* d, uint32_t attribute, const void* data,
                                   size_t size) {
    if (attribute == 1 && size == 4)
        memcpy(&d->scale, data, 4);
    else if (attribute == 3 && size == 4)
        memcpy(&d->transposed, data, 4);
    else if (attribute == 8 && size == 8)
        memcpy(&d->bias, data, 8);
    else
        return NOT_SUPPORTED;
    return SUCCESS;
}
int cublasLtMatmulDescGetAttribute(struct desc* d, uint32_t attribute, void* data, size_t size,
                                   size_t* written) {
    if (attribute != 8) return NOT_SUPPORTED;
    if (written) *written = 8;
    if (size < 8) return size ? INVALID_VALUE : SUCCESS;
    memcpy(data, &d->bias, 8);
    return SUCCESS;
}
int cublasLtMatrixLayoutCreate(struct desc** d, uint32_t type, uint64_t rows, uint64_t cols,
                               int64_t ld) {
    *d = calloc(1, sizeof **d);
    (*d)->type = type;
    (*d)->rows = rows;
    (*d)->cols = cols;
    (*d)->ld = ld;
    return SUCCESS;
}
int cublasLtMatrixLayoutDestroy(struct desc* d) {
    free(d);
    return SUCCESS;
}
int cublasLtMatmulPreferenceCreate(void** p) {
    *p = calloc(1, 96);
    return SUCCESS;
}
int cublasLtMatmulPreferenceDestroy(void* p) {
    free(p);
    return SUCCESS;
}
int cublasLtMatmulPreferenceSetAttribute(uint64_t* p, uint32_t attribute, const void* data,
                                         size_t size) {
    if (size != 8) return INVALID_VALUE;
    memcpy(p, data, 8);
    return SUCCESS;
}
int cublasLtMatmulAlgoGetHeuristic(void* h, struct desc* d, struct desc* a, struct desc* b,
                                   struct desc* c, struct desc* out, uint64_t* preference,
                                   int wanted, struct result* results, int* found) {
    *found = wanted < 2 ? wanted : 2;
    for (int i = 0; i < *found; ++i) {
        memset(&results[i], 0, sizeof results[i]);
        results[i].algo.data[0] = 4711 + i;
        results[i].workspace = *preference;
    }
    return SUCCESS;
}
int cublasLtMatmul(void* h, struct desc* d, const void* alpha, const float* a, struct desc* la,
                   const float* b, struct desc* lb, const void* beta, const float* c,
                   struct desc* lc, float* out, struct desc* lout, const struct algo* algo,
                   void* workspace, size_t size, void* stream) {
    if (algo && algo->data[0] != 4711) return INVALID_VALUE;
    const double al = d->scale == 1 ? *(const double*)alpha : *(const float*)alpha;
    const double be = d->scale == 1 ? *(const double*)beta : *(const float*)beta;
    const uint64_t depth = la->cols;
    for (uint64_t i = 0; i < lout->rows; ++i) {
        for (uint64_t j = 0; j < lout->cols; ++j) {
            double sum = 0;
            for (uint64_t l = 0; l < depth; ++l) sum += a[i + l * la->ld] * b[l + j * lb->ld];
            out[i + j * lout->ld] =
                (float)(al * sum + (be ? be * c[i + j * lc->ld] : 0) + (d->bias ? d->bias[i] : 0));
        }
    }
    return SUCCESS;
}
