/* LD_AUDIT library: makes unmodified programs load Carrel's driver libraries.
 *
 * Whatever path a program, a wheel or a ctypes preload gives for one of NVIDIA's driver libraries,
 * the library of that SONAME beside this one is loaded instead. Where there is none the name is
 * left alone. Lives in a linker namespace of its own in every process of a slice: plain C, no
 * allocation.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static const char* const kNames[][2] = {
    /* asked for,            loaded */
    {"libcuda.so.1", "libcuda.so.1"},
    {"libcuda.so", "libcuda.so.1"},
    {"libnvidia-ml.so.1", "libnvidia-ml.so.1"},
    {"libnvidia-ml.so", "libnvidia-ml.so.1"},
    {"libcublas.so.12", "libcublas.so.12"},
    {"libcublas.so.13", "libcublas.so.13"},
    {"libcublasLt.so.12", "libcublasLt.so.12"},
    {"libcublasLt.so.13", "libcublasLt.so.13"},
    {"libcudnn.so.9", "libcudnn.so.9"},
    {"libcufft.so.11", "libcufft.so.11"},
    {"libcufft.so.12", "libcufft.so.12"},
    {"libcurand.so.10", "libcurand.so.10"},
    {"libcusparse.so.12", "libcusparse.so.12"},
    {"libcusolver.so.11", "libcusolver.so.11"},
    {"libcusolver.so.12", "libcusolver.so.12"},
    {"libnccl.so.2", "libnccl.so.2"},
    {"libcusparseLt.so.0", "libcusparseLt.so.0"},
    {"libcupti.so.12", "libcupti.so.12"},
    {"libcupti.so.13", "libcupti.so.13"},
    {"libnvshmem_host.so.3", "libnvshmem_host.so.3"},
    {"libcufile.so.0", "libcufile.so.0"},
    {"libcudart.so.12", "libcudart.so.12"},
    {"libcudart.so.13", "libcudart.so.13"},
};
enum { kCount = sizeof kNames / sizeof kNames[0] };

/* The linker keeps no copy of what la_objsearch returns: these live as long as the process. */
static char paths[kCount][4096];

EXPORT unsigned int la_version(unsigned int version) {
    Dl_info self;
    if (dladdr((const void*)&la_version, &self) && self.dli_fname) {
        const char* slash = strrchr(self.dli_fname, '/');
        const int length = slash ? (int)(slash - self.dli_fname) : 0;
        for (int i = 0; i < kCount && length > 0; ++i) {
            const int size = snprintf(paths[i], sizeof paths[i], "%.*s/%s", length, self.dli_fname,
                                      kNames[i][1]);
            if (size >= (int)sizeof paths[i] || access(paths[i], R_OK)) paths[i][0] = 0;
        }
    }
    return version < LAV_CURRENT ? version : LAV_CURRENT;
}

EXPORT char* la_objsearch(const char* name, uintptr_t* cookie, unsigned int flag) {
    (void)cookie;
    (void)flag;
    const char* slash = strrchr(name, '/');
    const char* base = slash ? slash + 1 : name;
    if (strncmp(base, "lib", 3)) return (char*)name; /* the linker's own string, unchanged */
    for (int i = 0; i < kCount; ++i)
        if (!strcmp(base, kNames[i][0]) && paths[i][0]) return paths[i];
    return (char*)name;
}
