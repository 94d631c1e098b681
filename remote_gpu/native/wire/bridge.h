/* What libcuda.so.1 offers to the other client libraries of the same build, which reach the worker
 * through its session: `const struct carrel_bridge* carrel_bridge_get(uint32_t version)`. Not for
 * programs.
 *
 * Results are CUresult. Names stand for objects in the worker; a program's handle is its name plus
 * CARREL_HANDLE_BASE. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CARREL_BRIDGE_VERSION 1u
#define CARREL_HANDLE_BASE (UINT64_C(1) << 40)

struct carrel_bridge {
    uint32_t version;
    uint32_t size;
    /* Connects if need be; what every call would answer now. */
    int (*attach)(void);
    /* A new name; 0 when there is no more. `kind` is the caller's own. */
    uint32_t (*mint)(uint32_t kind, uint32_t note);
    void (*retire)(uint32_t name);
    /* The kind of a live name, 0 of anything else; its note. */
    uint32_t (*look)(uint32_t name, uint32_t* note);
    void (*note)(uint32_t name, uint32_t note);
    /* The name that travels for a stream. */
    int (*stream)(void* stream, uint64_t* name);
    /* Whether an address is device memory, which is the same in the worker. */
    int (*device)(const void* address);
    /* A call of a library: pipelined; and waiting, with the answer's bytes after its CUresult. */
    int (*post)(const void* payload, size_t size);
    int (*ask)(const void* payload, size_t size,
               void (*answer)(void* user, const void* data, size_t size), void* user);
    /* The status of a pipelined call of this library that failed; 0 if none has since. */
    int (*failure)(uint16_t library);
    /* CARREL_TRACE=summary. `name` must live as long as the process. */
    void (*trace)(const char* name, int waits);
    void (*warn)(const char* line);
};

typedef const struct carrel_bridge* (*carrel_bridge_get_t)(uint32_t version);

#ifdef __cplusplus
}
#endif
