// cuCtx*, cuDevicePrimaryCtx*: contexts, which is current, and their settings.
#include <algorithm>

#include "cuda_functions.hpp"
#include "softgpu/capture.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

CUcontext handle_of(const Context& context) {
    return HandleTable<Context, CUcontext>::handle_of(&context);
}

std::shared_ptr<Context> find_context(CUcontext handle) {
    if (!handle) return current_context().shared_from_this();
    return Runtime::get().contexts.get(handle, CUDA_ERROR_INVALID_CONTEXT);
}

void require_flags(unsigned flags) {
    const unsigned scheduling = flags & CU_CTX_SCHED_MASK;
    require((flags & ~static_cast<unsigned>(CU_CTX_FLAGS_MASK)) == 0 &&
            (scheduling == 0 || scheduling == 1 || scheduling == 2 || scheduling == 4));
}

CUresult create(CUcontext* pctx, unsigned flags, CUdevice dev) {
    return entry([&] {
        require(pctx != nullptr);
        require_flags(flags);
        auto context = std::make_shared<Context>(Runtime::get().device(dev), flags, false);
        *pctx = Runtime::get().contexts.add(context);
        context_stack().push_back(std::move(context));
    });
}

}  // namespace

CUresult cuDevicePrimaryCtxRetain(CUcontext* pctx, CUdevice dev) {
    return entry([&] {
        require(pctx != nullptr);
        Device& device = Runtime::get().device(dev);
        const std::lock_guard lock(device.primary.mutex);
        if (!device.primary.context)
            device.primary.context = std::make_shared<Context>(device, device.primary.flags, true);
        if (device.primary.retained++ == 0) {
            device.primary.context->flags = device.primary.flags;
            Runtime::get().contexts.add(device.primary.context);
        }
        *pctx = handle_of(*device.primary.context);
    });
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev) {
    return entry([&] {
        Device& device = Runtime::get().device(dev);
        const std::lock_guard lock(device.primary.mutex);
        require(device.primary.retained > 0, CUDA_ERROR_INVALID_CONTEXT);
        if (--device.primary.retained > 0) return;
        device.primary.context->tear_down();
        Runtime::get().contexts.remove(handle_of(*device.primary.context));
    });
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev) {
    return entry([&] {
        Device& device = Runtime::get().device(dev);
        const std::lock_guard lock(device.primary.mutex);
        if (device.primary.retained > 0) device.primary.context->tear_down();
    });
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags) {
    return entry([&] {
        require_flags(flags);
        Device& device = Runtime::get().device(dev);
        const std::lock_guard lock(device.primary.mutex);
        device.primary.flags = flags;
        if (device.primary.retained > 0) device.primary.context->flags = flags;
    });
}

CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int* flags, int* active) {
    return entry([&] {
        require(flags && active);
        Device& device = Runtime::get().device(dev);
        const std::lock_guard lock(device.primary.mutex);
        *active = device.primary.retained > 0;
        *flags = device.primary.flags;
    });
}

CUresult cuCtxCreate_v2(CUcontext* pctx, unsigned int flags, CUdevice dev) {
    return create(pctx, flags, dev);
}

CUresult cuCtxCreate_v3(CUcontext* pctx, CUexecAffinityParam*, int numParams, unsigned int flags,
                        CUdevice dev) {
    if (numParams != 0) return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    return create(pctx, flags, dev);
}

CUresult cuCtxCreate_v4(CUcontext* pctx, CUctxCreateParams* ctxCreateParams, unsigned int flags,
                        CUdevice dev) {
    if (ctxCreateParams && ctxCreateParams->numExecAffinityParams != 0)
        return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    if (ctxCreateParams && ctxCreateParams->cigParams) return CUDA_ERROR_NOT_SUPPORTED;
    return create(pctx, flags, dev);
}

CUresult cuCtxDestroy_v2(CUcontext ctx) {
    return entry([&] {
        const auto context = Runtime::get().contexts.get(ctx, CUDA_ERROR_INVALID_CONTEXT);
        require(!context->primary(), CUDA_ERROR_INVALID_CONTEXT);
        Runtime::get().contexts.remove(ctx);
        auto& stack = context_stack();
        if (!stack.empty() && stack.back() == context) stack.pop_back();
        context->tear_down();
    });
}

CUresult cuCtxPushCurrent_v2(CUcontext ctx) {
    return entry([&] {
        context_stack().push_back(Runtime::get().contexts.get(ctx, CUDA_ERROR_INVALID_CONTEXT));
    });
}

CUresult cuCtxPopCurrent_v2(CUcontext* pctx) {
    return entry([&] {
        auto& stack = context_stack();
        require(!stack.empty(), CUDA_ERROR_INVALID_CONTEXT);
        if (pctx) *pctx = handle_of(*stack.back());
        stack.pop_back();
    });
}

CUresult cuCtxSetCurrent(CUcontext ctx) {
    return entry([&] {
        auto& stack = context_stack();
        if (!ctx) {
            if (!stack.empty()) stack.pop_back();
            return;
        }
        auto context = Runtime::get().contexts.get(ctx, CUDA_ERROR_INVALID_CONTEXT);
        if (stack.empty()) {
            stack.push_back(std::move(context));
        } else {
            stack.back() = std::move(context);
        }
    });
}

CUresult cuCtxGetCurrent(CUcontext* pctx) {
    return entry([&] {
        require(pctx != nullptr);
        auto& stack = context_stack();
        *pctx = stack.empty() ? nullptr : handle_of(*stack.back());
    });
}

CUresult cuCtxGetDevice(CUdevice* device) {
    return entry([&] {
        require(device != nullptr);
        require(!context_stack().empty(), CUDA_ERROR_INVALID_CONTEXT);
        *device = context_stack().back()->device().ordinal();
    });
}

CUresult cuCtxGetDevice_v2(CUdevice* device, CUcontext ctx) {
    return entry([&] {
        require(device != nullptr);
        *device = find_context(ctx)->device().ordinal();
    });
}

CUresult cuCtxGetFlags(unsigned int* flags) {
    return entry_in_context([&](Context& context) {
        require(flags != nullptr);
        *flags = context.flags;
    });
}

CUresult cuCtxSetFlags(unsigned int flags) {
    return entry_in_context([&](Context& context) {
        require_flags(flags);
        context.flags = flags;
    });
}

CUresult cuCtxGetId(CUcontext ctx, unsigned long long* ctxId) {
    return entry([&] {
        require(ctxId != nullptr);
        *ctxId = find_context(ctx)->id();
    });
}

CUresult cuCtxSynchronize() {
    return entry_in_context([](Context& context) {
        require_no_capture(context);
        context.synchronize();
    });
}

CUresult cuCtxSynchronize_v2(CUcontext ctx) {
    return entry([&] {
        const auto context = find_context(ctx);
        require_no_capture(*context);
        context->synchronize();
    });
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
    return entry_in_context([&](Context& context) {
        switch (limit) {
            case CU_LIMIT_STACK_SIZE: {
                // The interpreter keeps a stack per thread of the blocks that run at once.
                constexpr std::size_t kLargestStack = std::size_t{512} << 10;
                require(value <= kLargestStack);
                context.set_limit(limit, std::max<std::size_t>(round_up(value, 16), 1024));
                return;
            }
            case CU_LIMIT_PRINTF_FIFO_SIZE:
            case CU_LIMIT_MALLOC_HEAP_SIZE:
                require(value <= context.device().config().vram_bytes);
                context.set_limit(limit, std::max<std::size_t>(value, 4096));
                return;
            case CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH:
            case CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT:
            case CU_LIMIT_MAX_L2_FETCH_GRANULARITY:
            case CU_LIMIT_PERSISTING_L2_CACHE_SIZE:
                context.set_limit(limit, value);
                return;
            default:
                throw Failure(CUDA_ERROR_UNSUPPORTED_LIMIT);
        }
    });
}

CUresult cuCtxGetLimit(size_t* pvalue, CUlimit limit) {
    return entry_in_context([&](Context& context) {
        require(pvalue != nullptr);
        require(limit >= 0 && limit <= CU_LIMIT_PERSISTING_L2_CACHE_SIZE,
                CUDA_ERROR_UNSUPPORTED_LIMIT);
        *pvalue = context.limit(limit);
    });
}

CUresult cuCtxGetCacheConfig(CUfunc_cache* pconfig) {
    return entry_in_context([&](Context& context) {
        require(pconfig != nullptr);
        *pconfig = context.cache_config;
    });
}

CUresult cuCtxSetCacheConfig(CUfunc_cache config) {
    return entry_in_context([&](Context& context) {
        require(config >= CU_FUNC_CACHE_PREFER_NONE && config <= CU_FUNC_CACHE_PREFER_EQUAL);
        context.cache_config = config;
    });
}

CUresult cuCtxGetApiVersion(CUcontext ctx, unsigned int* version) {
    return entry([&] {
        require(version != nullptr);
        (void)find_context(ctx);
        *version = 3020;
    });
}

CUresult cuCtxGetStreamPriorityRange(int* leastPriority, int* greatestPriority) {
    return entry_in_context([&](Context&) {
        if (leastPriority) *leastPriority = 0;
        if (greatestPriority) *greatestPriority = Stream::kGreatestPriority;
    });
}

CUresult cuCtxResetPersistingL2Cache() {
    return entry_in_context([](Context&) {});
}

CUresult cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags) {
    return entry_in_context([&](Context& context) {
        require(Flags == 0);
        // All software GPUs share one address space; there is nothing to open.
        require(&find_context(peerContext)->device() != &context.device(),
                CUDA_ERROR_INVALID_DEVICE);
    });
}

CUresult cuCtxDisablePeerAccess(CUcontext peerContext) {
    return entry_in_context([&](Context& context) {
        require(&find_context(peerContext)->device() != &context.device(),
                CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
    });
}

CUresult cuProfilerStart() {
    return entry_in_context([](Context&) {});
}

CUresult cuProfilerStop() {
    return entry_in_context([](Context&) {});
}
