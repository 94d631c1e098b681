/* A libcudnn.so.9 of a few functions; see plain_cublas.c. Executing a plan adds the value that the
 * variant pack's second pointer points to, on the host, to the numbers that the first points to. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, BAD_PARAM = 2000, NOT_SUPPORTED = 3000 };
enum { PLAN = 5, VARIANT_PACK = 16 };
enum { TYPE_HANDLE = 0, TYPE_INT64 = 3, TYPE_VOID_PTR = 6, TYPE_DESCRIPTOR = 15 };

struct handle {
    int magic;
    void* stream;
};
struct backend {
    int type;
    int final;
    int64_t count;
    int64_t numbers[8];
    void* pointers[4];
    struct backend* child;
    struct handle* handle;
};
struct tensor {
    int type;
    int dims;
    int size[8];
    int stride[8];
};

size_t cudnnGetVersion(void) {
    return 92800;
}
int cudnnCreate(struct handle** h) {
    *h = calloc(1, sizeof **h);
    (*h)->magic = 77;
    return SUCCESS;
}
int cudnnDestroy(struct handle* h) {
    free(h);
    return SUCCESS;
}
int cudnnSetStream(struct handle* h, void* stream) {
    h->stream = stream;
    return SUCCESS;
}
void cudnnGetLastErrorString(char* message, size_t size) {
    strncpy(message, "nothing is wrong", size);
}

int cudnnBackendCreateDescriptor(int type, struct backend** d) {
    *d = calloc(1, sizeof **d);
    (*d)->type = type;
    return SUCCESS;
}
int cudnnBackendDestroyDescriptor(struct backend* d) {
    free(d);
    return SUCCESS;
}
int cudnnBackendSetAttribute(struct backend* d, int name, int type, int64_t count,
                             const void* data) {
    d->count = count;
    if (type == TYPE_INT64)
        memcpy(d->numbers, data, (size_t)count * 8);
    else if (type == TYPE_VOID_PTR)
        memcpy(d->pointers, data, (size_t)count * 8);
    else if (type == TYPE_DESCRIPTOR)
        memcpy(&d->child, data, 8);
    else if (type == TYPE_HANDLE)
        memcpy(&d->handle, data, 8);
    else
        return NOT_SUPPORTED;
    return SUCCESS;
}
int cudnnBackendGetAttribute(struct backend* d, int name, int type, int64_t wanted, int64_t* count,
                             void* data) {
    if (count) *count = d->count;
    if (type == TYPE_INT64)
        memcpy(data, d->numbers, (size_t)(wanted < d->count ? wanted : d->count) * 8);
    else if (type == TYPE_DESCRIPTOR)
        (*(struct backend**)data)->numbers[0] = 4711; /* fills it */
    else
        return NOT_SUPPORTED;
    return SUCCESS;
}
int cudnnBackendFinalize(struct backend* d) {
    if (d->type == PLAN && (!d->child || !d->handle || d->handle->magic != 77))
        return NOT_SUPPORTED;
    d->final = 1;
    return SUCCESS;
}
int cudnnBackendExecute(struct handle* h, struct backend* plan, struct backend* pack) {
    if (h->magic != 77 || !plan->final || !pack->final || pack->type != VARIANT_PACK)
        return BAD_PARAM;
    float* data = pack->pointers[0];
    for (int i = 0; i < plan->child->numbers[0]; ++i) data[i] += *(const float*)pack->pointers[1];
    return SUCCESS;
}

int cudnnCreateTensorDescriptor(struct tensor** t) {
    *t = calloc(1, sizeof **t);
    return SUCCESS;
}
int cudnnDestroyTensorDescriptor(struct tensor* t) {
    free(t);
    return SUCCESS;
}
int cudnnSetTensorNdDescriptor(struct tensor* t, int type, int dims, const int* size,
                               const int* stride) {
    if (dims > 8) return NOT_SUPPORTED;
    t->type = type;
    t->dims = dims;
    memcpy(t->size, size, (size_t)dims * 4);
    memcpy(t->stride, stride, (size_t)dims * 4);
    return SUCCESS;
}
int cudnnGetTensorNdDescriptor(const struct tensor* t, int wanted, int* type, int* dims, int* size,
                               int* stride) {
    *type = t->type;
    *dims = t->dims;
    memcpy(size, t->size, (size_t)wanted * 4);
    memcpy(stride, t->stride, (size_t)wanted * 4);
    return SUCCESS;
}
int cudnnScaleTensor(struct handle* h, const struct tensor* t, void* y, const void* alpha) {
    int count = 1;
    for (int i = 0; i < t->dims; ++i) count *= t->size[i];
    for (int i = 0; i < count; ++i) {
        if (t->type == 1)
            ((double*)y)[i] *= *(const double*)alpha;
        else
            ((float*)y)[i] *= *(const float*)alpha;
    }
    return SUCCESS;
}
int cudnnCTCLoss(struct handle* h, const struct tensor* probs, const void* p, const int* labels,
                 const int* label_lengths, const int* input_lengths, void* costs,
                 const struct tensor* g, void* gradients, int algo, void* desc, void* workspace,
                 size_t size) {
    /* What it was given, as "costs": the sum of the labels of each sequence. */
    float* out = costs;
    for (int i = 0, at = 0; i < probs->size[1]; ++i) {
        out[i] = (float)input_lengths[i] * 1000;
        for (int l = 0; l < label_lengths[i]; ++l) out[i] += (float)labels[at++];
    }
    return SUCCESS;
}
int cudnnCreateCTCLossDescriptor(void** d) {
    *d = malloc(8);
    return SUCCESS;
}

/* A sequence's data keeps its padding as its type has it. */
struct sequence {
    int type, lengths[4];
    size_t count;
    char padding[8];
};
static size_t width(int type) {
    return type == 1 ? 8 : type == 0 ? 4 : 2;
}
int cudnnCreateSeqDataDescriptor(struct sequence** d) {
    *d = calloc(1, sizeof **d);
    return SUCCESS;
}
int cudnnSetSeqDataDescriptor(struct sequence* d, int type, int dims, const int* dim,
                              const int* axes, size_t count, const int* lengths,
                              const void* padding) {
    if (dims != 4 || count > 4 || dim[3] != 8 || axes[3] != 3) return BAD_PARAM;
    d->type = type;
    d->count = count;
    memcpy(d->lengths, lengths, count * sizeof *lengths);
    memcpy(d->padding, padding, width(type));
    return SUCCESS;
}
int cudnnGetSeqDataDescriptor(const struct sequence* d, int* type, int* dims, int wanted, int* dim,
                              int* axes, size_t* count, size_t wanted_lengths, int* lengths,
                              void* padding) {
    *type = d->type;
    *dims = 4;
    *count = d->count;
    memcpy(lengths, d->lengths, wanted_lengths * sizeof *lengths);
    memcpy(padding, d->padding, width(d->type));
    return SUCCESS;
}
struct attention {
    int length;
};
int cudnnCreateAttnDescriptor(struct attention** d) {
    *d = calloc(1, sizeof **d);
    return SUCCESS;
}
int cudnnSetAttnDescriptor(struct attention* d, unsigned mode, int heads, double scale, int type,
                           int precision, int math, void* dropout, void* post, int q, int k, int v,
                           int qp, int kp, int vp, int op, int length, int kv_length, int batch,
                           int beam) {
    d->length = length;
    return scale == 0.25 ? SUCCESS : BAD_PARAM;
}
/* Writes the widths of the windows, which are on the host, to `out`, which is not. */
int cudnnMultiHeadAttnForward(struct handle* h, const struct attention* d, int index,
                              const int* low, const int* high, const int* lengths_q,
                              const int* lengths_k, const struct sequence* qd, const void* q,
                              const void* residuals, const struct sequence* kd, const void* k,
                              const struct sequence* vd, const void* v, const struct sequence* od,
                              float* out, size_t weights_size, const void* weights,
                              size_t work_size, void* work, size_t reserve_size, void* reserve) {
    for (int i = 0; i < d->length; ++i) out[i] = (float)(high[i] - low[i]);
    return SUCCESS;
}
