/* A libcufft.so.12 whose transform of one row is plain; see plain_cublas.c. */
#include <complex.h>
#include <math.h>
#include <stddef.h>

enum { SUCCESS = 0, INVALID_PLAN = 1, INVALID_SIZE = 8 };
static struct {
    int live;
    long long n;
} plans[64];
static int next = 1;

int cufftCreate(int* plan) {
    *plan = next++;
    plans[*plan].live = 1;
    return SUCCESS;
}
int cufftDestroy(int plan) {
    if (!plans[plan].live) return INVALID_PLAN;
    plans[plan].live = 0;
    return SUCCESS;
}
int cufftSetAutoAllocation(int plan, int automatic) {
    return plans[plan].live ? SUCCESS : INVALID_PLAN;
}
int cufftSetStream(int plan, void* stream) {
    return plans[plan].live ? SUCCESS : INVALID_PLAN;
}
int cufftSetWorkArea(int plan, void* area) {
    return plans[plan].live && area ? SUCCESS : INVALID_PLAN;
}
int cufftXtMakePlanMany(int plan, int rank, long long* n, long long* inembed, long long istride,
                        long long idist, int in, long long* onembed, long long ostride,
                        long long odist, int out, long long batch, size_t* size, int execution) {
    if (!plans[plan].live) return INVALID_PLAN;
    if (rank != 1 || n[0] < 1) return INVALID_SIZE;
    plans[plan].n = n[0];
    *size = (size_t)n[0] * 8;
    return SUCCESS;
}
int cufftXtExec(int plan, void* input, void* output, int direction) {
    if (!plans[plan].live) return INVALID_PLAN;
    const float complex* in = input;
    float complex* out = output;
    const long long n = plans[plan].n;
    for (long long k = 0; k < n; ++k) {
        double complex sum = 0;
        for (long long j = 0; j < n; ++j)
            sum += in[j] * cexp(direction * 2 * M_PI * I * (double)(j * k) / (double)n);
        out[k] = (float complex)sum;
    }
    return SUCCESS;
}
/* One work area per GPU: an array of one pointer, on the host. */
int cufftXtSetWorkArea(int plan, void** areas) {
    return plans[plan].live && areas && areas[0] ? SUCCESS : INVALID_PLAN;
}
