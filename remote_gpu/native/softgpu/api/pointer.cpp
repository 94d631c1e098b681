// cuPointer*: what is known of an address.
#include <cstring>

#include "cuda_functions.hpp"
#include "softgpu/pool.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

template <class T>
void put(void* data, T value) {
    std::memcpy(data, &value, sizeof value);
}

CUmemoryPool pool_handle(const Allocation& allocation) {
    return HandleTable<MemoryPool, CUmemoryPool>::handle_of(allocation.pool);
}

// False: memory that CUDA does not know has no such attribute.
bool put_attribute(void* data, CUpointer_attribute attribute, CUdeviceptr ptr,
                   const std::optional<Allocation>& known) {
    switch (attribute) {
        case CU_POINTER_ATTRIBUTE_IS_MANAGED:
            put<unsigned>(data, known && known->kind == MemoryKind::managed);
            return true;
        case CU_POINTER_ATTRIBUTE_MAPPED:
            put<unsigned>(data, known.has_value());
            return true;
        default:
            break;
    }
    if (!known) return false;
    switch (attribute) {
        case CU_POINTER_ATTRIBUTE_CONTEXT:
            put(data, HandleTable<Context, CUcontext>::handle_of(known->context));
            return true;
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
            put<unsigned>(data, known->host() ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE);
            return true;
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
            put(data, ptr);
            return true;
        case CU_POINTER_ATTRIBUTE_HOST_POINTER:
            put(data, known->host() || known->kind == MemoryKind::managed ? ptr : 0);
            return known->host() || known->kind == MemoryKind::managed;
        case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
            put<unsigned>(data, known->sync_operations);
            return true;
        case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
            put<unsigned long long>(data, known->id);
            return true;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
            put<int>(data, known->device);
            return true;
        case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
            put<unsigned>(data, 0);
            return true;
        case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
            put(data, known->base);
            return true;
        case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
            put<std::size_t>(data, known->bytes);
            return true;
        case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
            put<unsigned long long>(
                data, known->physical ? known->physical->properties().requestedHandleTypes : 0);
            return true;
        case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
            put<unsigned>(data, known->access);
            return true;
        case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
            put(data, pool_handle(*known));
            return true;
        default:
            return false;
    }
}

std::size_t size_of(CUpointer_attribute attribute) {
    switch (attribute) {
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        case CU_POINTER_ATTRIBUTE_MAPPED:
        case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
            return 4;
        case CU_POINTER_ATTRIBUTE_P2P_TOKENS:
            return sizeof(CUDA_POINTER_ATTRIBUTE_P2P_TOKENS);
        default:
            return 8;
    }
}

}  // namespace

CUresult cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr ptr) {
    return entry([&] {
        require(data && attribute > 0 && attribute <= CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL);
        require(put_attribute(data, attribute, ptr, Runtime::get().addresses().find(ptr)));
    });
}

CUresult cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute* attributes,
                                void** data, CUdeviceptr ptr) {
    return entry([&] {
        require(numAttributes > 0 && attributes && data);
        const auto known = Runtime::get().addresses().find(ptr);
        for (unsigned i = 0; i < numAttributes; ++i) {
            require(data[i] != nullptr);
            // Unlike the single query, unknown memory is no error: its attributes are zero.
            if (!put_attribute(data[i], attributes[i], ptr, known)) {
                std::memset(data[i], 0, size_of(attributes[i]));
                if (attributes[i] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) put<int>(data[i], -2);
            }
        }
    });
}

CUresult cuPointerSetAttribute(const void* value, CUpointer_attribute attribute, CUdeviceptr ptr) {
    return entry([&] {
        require(value && attribute == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS);
        const bool on = *static_cast<const unsigned*>(value) != 0;
        require(Runtime::get().addresses().update(
            ptr, [&](Allocation& allocation) { allocation.sync_operations = on; }));
    });
}
