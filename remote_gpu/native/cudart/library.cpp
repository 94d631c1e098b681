// Libraries loaded by the program itself.
#include "cudart/runtime.hpp"

using namespace carrel::cudart;

cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, const void* code, cudaJitOption* jitOptions,
                                void** jitOptionsValues, unsigned int numJitOptions,
                                cudaLibraryOption* libraryOptions, void** libraryOptionValues,
                                unsigned int numLibraryOptions) {
    return call([&] {
        return cuLibraryLoadData(library, code, reinterpret_cast<CUjit_option*>(jitOptions),
                                 jitOptionsValues, numJitOptions,
                                 reinterpret_cast<CUlibraryOption*>(libraryOptions),
                                 libraryOptionValues, numLibraryOptions);
    });
}

cudaError_t cudaLibraryLoadFromFile(cudaLibrary_t* library, const char* fileName,
                                    cudaJitOption* jitOptions, void** jitOptionsValues,
                                    unsigned int numJitOptions, cudaLibraryOption* libraryOptions,
                                    void** libraryOptionValues, unsigned int numLibraryOptions) {
    return call([&] {
        return cuLibraryLoadFromFile(library, fileName, reinterpret_cast<CUjit_option*>(jitOptions),
                                     jitOptionsValues, numJitOptions,
                                     reinterpret_cast<CUlibraryOption*>(libraryOptions),
                                     libraryOptionValues, numLibraryOptions);
    });
}

cudaError_t cudaLibraryUnload(cudaLibrary_t library) {
    return call([&] { return cuLibraryUnload(library); });
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t* pKernel, cudaLibrary_t library, const char* name) {
    return call([&] { return cuLibraryGetKernel(pKernel, library, name); });
}

cudaError_t cudaLibraryGetKernelCount(unsigned int* count, cudaLibrary_t lib) {
    return call([&] { return cuLibraryGetKernelCount(count, lib); });
}

cudaError_t cudaLibraryEnumerateKernels(cudaKernel_t* kernels, unsigned int numKernels,
                                        cudaLibrary_t lib) {
    return call([&] { return cuLibraryEnumerateKernels(kernels, numKernels, lib); });
}

cudaError_t cudaLibraryGetGlobal(void** dptr, size_t* bytes, cudaLibrary_t library,
                                 const char* name) {
    return call([&] {
        return cuLibraryGetGlobal(reinterpret_cast<CUdeviceptr*>(dptr), bytes, library, name);
    });
}

cudaError_t cudaLibraryGetManaged(void** dptr, size_t* bytes, cudaLibrary_t library,
                                  const char* name) {
    return call([&] {
        return cuLibraryGetManaged(reinterpret_cast<CUdeviceptr*>(dptr), bytes, library, name);
    });
}

cudaError_t cudaLibraryGetUnifiedFunction(void** fptr, cudaLibrary_t library, const char* symbol) {
    return call([&] { return cuLibraryGetUnifiedFunction(fptr, library, symbol); });
}
