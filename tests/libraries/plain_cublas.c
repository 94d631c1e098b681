/* A libcublas.so.13 of a few functions, plainly computed: it stands for NVIDIA's on the GPU host.
 * Device addresses of the software GPU are addresses of this process. No cublasDdot_v2, on purpose.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7 };
enum { MAGIC = 0x6d756c21 };

struct handle {
    int magic;
    int mode; /* 0: scalars on the host, 1: on the device */
    void* stream;
    void* workspace;
};

static int bad(const struct handle* h) {
    return !h || h->magic != MAGIC;
}

int cublasCreate_v2(struct handle** out) {
    *out = calloc(1, sizeof **out);
    (*out)->magic = MAGIC;
    return SUCCESS;
}
int cublasDestroy_v2(struct handle* h) {
    if (bad(h)) return NOT_INITIALIZED;
    h->magic = 0;
    free(h);
    return SUCCESS;
}
int cublasSetStream_v2(struct handle* h, void* stream) {
    if (bad(h)) return NOT_INITIALIZED;
    h->stream = stream;
    return SUCCESS;
}
int cublasGetStream_v2(struct handle* h, void** stream) {
    *stream = h->stream;
    return bad(h) ? NOT_INITIALIZED : SUCCESS;
}
int cublasSetPointerMode_v2(struct handle* h, int mode) {
    if (bad(h)) return NOT_INITIALIZED;
    h->mode = mode;
    return SUCCESS;
}
int cublasGetPointerMode_v2(struct handle* h, int* mode) {
    *mode = h->mode;
    return bad(h) ? NOT_INITIALIZED : SUCCESS;
}
int cublasGetVersion_v2(struct handle* h, int* version) {
    *version = 130100;
    return bad(h) ? NOT_INITIALIZED : SUCCESS;
}
int cublasSgemm_v2(struct handle* h, int transa, int transb, int m, int n, int k,
                   const float* alpha, const float* a, int lda, const float* b, int ldb,
                   const float* beta, float* c, int ldc) {
    if (bad(h)) return NOT_INITIALIZED;
    if (m < 0 || n < 0 || k < 0) return INVALID_VALUE;
    for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
            float sum = 0;
            for (int l = 0; l < k; ++l)
                sum += (transa ? a[l + i * lda] : a[i + l * lda]) *
                       (transb ? b[j + l * ldb] : b[l + j * ldb]);
            c[i + j * ldc] = *alpha * sum + (*beta ? *beta * c[i + j * ldc] : 0);
        }
    }
    return SUCCESS;
}
int cublasSdot_v2(struct handle* h, int n, const float* x, int incx, const float* y, int incy,
                  float* result) {
    if (bad(h)) return NOT_INITIALIZED;
    float sum = 0;
    for (int i = 0; i < n; ++i) sum += x[i * incx] * y[i * incy];
    *result = sum;
    return SUCCESS;
}
int cublasDscal_v2(struct handle* h, int n, const double* alpha, double* x, int incx) {
    if (bad(h)) return NOT_INITIALIZED;
    for (int i = 0; i < n; ++i) x[i * incx] *= *alpha;
    return SUCCESS;
}
int cublasSetMatrix(int rows, int cols, int size, const void* a, int lda, void* b, int ldb) {
    for (int j = 0; j < cols; ++j)
        memcpy((char*)b + (size_t)j * ldb * size, (const char*)a + (size_t)j * lda * size,
               (size_t)rows * size);
    return SUCCESS;
}
int cublasGetMatrix(int rows, int cols, int size, const void* a, int lda, void* b, int ldb) {
    return cublasSetMatrix(rows, cols, size, a, lda, b, ldb);
}

/* Groups: what describes them on the host, the pointers in device memory. Writes, for each matrix,
 * alpha * m + beta * n into its first number. */
int cublasSgemmGroupedBatched(void* h, const int* ta, const int* tb, const int* m, const int* n,
                              const int* k, const float* alpha, const float* const* a,
                              const int* lda, const float* const* b, const int* ldb,
                              const float* beta, float* const* c, const int* ldc, int groups,
                              const int* size) {
    int matrix = 0;
    for (int g = 0; g < groups; ++g)
        for (int i = 0; i < size[g]; ++i)
            *c[matrix++] = alpha[g] * (float)m[g] + beta[g] * (float)n[g];
    return 0;
}
