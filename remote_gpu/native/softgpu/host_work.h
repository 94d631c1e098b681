/* What the software GPU offers the CUDA libraries that are made for it (softblas): work done by the
 * CPU in the order of a stream, on device memory. Device addresses are host addresses of this
 * process. No part of CUDA's API. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct CUstream_st;

/* Does the work; a CUresult. What is not 0 becomes the context's sticky error, and `explanation`
 * (room: bytes, ended by a zero) is shown to the user. */
typedef int (*CarrelHostWork)(void* data, char* explanation, size_t room);

/* Queues `work(data)` in the stream (null: the current context's default stream). `release(data)`
 * is called once when nothing will call `work` again, also when this function fails. Work is left
 * out when the context has failed by then. Returns a CUresult. */
int carrel_softgpu_enqueue(struct CUstream_st* stream, CarrelHostWork work, void (*release)(void*),
                           void* data);

/* On a null device, queues what takes as long in the stream as so many operations of a unit, or so
 * many bytes, would take on the GPU that it is modelled after: whichever is longer. Returns a
 * CUresult. */
typedef enum { CARREL_UNIT_TENSOR, CARREL_UNIT_FP32, CARREL_UNIT_FP64 } CarrelUnit;
typedef struct {
    CarrelUnit unit;
    double operations;
    double bytes; /* of device memory, read and written */
} CarrelModelledWork;
int carrel_softgpu_model(struct CUstream_st* stream, const CarrelModelledWork* work);

/* 1: every byte of the range is mapped device memory (or host memory that the device may touch). */
int carrel_softgpu_mapped(uint64_t address, uint64_t bytes);

/* How many threads of the host the device may keep busy. */
unsigned carrel_softgpu_host_threads(void);

#ifdef __cplusplus
}
#endif
