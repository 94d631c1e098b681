/* A libcusparseLt.so.0 of a few functions; see plain_cublas.c. Its objects lie in the caller's
 * memory and point to each other, as NVIDIA's do. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 3 };
struct object {
    uint64_t magic;
    const struct object* parts[4];
    uint64_t bias;
};

int cusparseLtInit(struct object* h) {
    memset(h, 0, 512);
    h->magic = 1;
    return SUCCESS;
}
int cusparseLtDestroy(const struct object* h) {
    return h->magic == 1 ? SUCCESS : INVALID_VALUE;
}
int cusparseLtDenseDescriptorInit(const struct object* h, struct object* d, int64_t rows,
                                  int64_t cols, int64_t ld, uint32_t alignment, int type,
                                  int order) {
    if (h->magic != 1 || rows % 8) return INVALID_VALUE;
    memset(d, 0, 512);
    d->magic = 2;
    return SUCCESS;
}
int cusparseLtMatDescriptorDestroy(const struct object* d) {
    return d->magic == 2 ? SUCCESS : INVALID_VALUE;
}
int cusparseLtMatmulDescriptorInit(const struct object* h, struct object* d, int opa, int opb,
                                   const struct object* a, const struct object* b,
                                   const struct object* c, const struct object* out, int compute) {
    memset(d, 0, 512);
    d->magic = 3;
    d->parts[0] = a;
    d->parts[1] = b;
    return SUCCESS;
}
int cusparseLtMatmulDescSetAttribute(const struct object* h, struct object* d, int attribute,
                                     const void* data, size_t size) {
    if (size != 8) return INVALID_VALUE;
    memcpy(&d->bias, data, 8);
    return SUCCESS;
}
int cusparseLtMatmulAlgSelectionInit(const struct object* h, struct object* s,
                                     const struct object* d, int alg) {
    memset(s, 0, 512);
    s->magic = 4;
    s->parts[0] = d;
    return SUCCESS;
}
int cusparseLtMatmulPlanInit(const struct object* h, struct object* p, const struct object* d,
                             const struct object* s) {
    memset(p, 0, 512);
    p->magic = 5;
    p->parts[0] = d;
    return SUCCESS;
}
int cusparseLtMatmulPlanDestroy(const struct object* p) {
    return p->magic == 5 ? SUCCESS : INVALID_VALUE;
}
int cusparseLtMatmul(const struct object* h, const struct object* p, const void* alpha,
                     const void* a, const void* b, const void* beta, const void* c, float* d,
                     void* workspace, void** streams, int count) {
    /* Follows the objects: alpha plus the magic of the first matrix, and how many streams there
     * are. */
    d[0] = *(const float*)alpha + (float)p->parts[0]->parts[0]->magic;
    d[1] = (float)count + (streams[0] ? 10 : 0);
    d[2] = *(const float*)p->parts[0]->bias;
    return SUCCESS;
}
