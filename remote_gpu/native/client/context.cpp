#include "client/context.hpp"

#include <atomic>
#include <mutex>
#include <vector>

#include "client/forward.hpp"
#include "client/graph.hpp"
#include "client/memory.hpp"
#include "client/pool.hpp"
#include "cuda_functions.hpp"

namespace carrel::client {

namespace {

// The calling thread's contexts. A program's exit handlers may come here after the thread's own
// objects are gone: they get a new stack, which goes with the process.
thread_local std::vector<Context*>* own_stack = nullptr;
struct StackOwner {
    ~StackOwner() { delete std::exchange(own_stack, nullptr); }
};

std::vector<Context*>& stack() {
    if (!own_stack) [[unlikely]] {
        thread_local StackOwner owner;
        static_cast<void>(&owner);
        own_stack = new std::vector<Context*>;
    }
    return *own_stack;
}

// The primary context's reference count and the flags for its next activation.
struct Primary {
    std::mutex mutex;
    unsigned int references = 0;
    unsigned int flags = 0;
    std::atomic<bool> flags_set{false};
};
Primary primary;

std::atomic<unsigned long long> next_id{1};

Context* make_context(uint32_t wire, bool is_primary) {
    auto* context = new Context;  // never deleted: a stale handle must stay harmless
    const uint32_t name = handles().create(Kind::context, context);
    context->wire = wire ? wire : name;
    context->handle = Handles::handle<CUcontext>(name);
    context->id = next_id++;
    context->primary = is_primary;
    return context;
}

CUresult check(CUdevice device) {
    if (const CUresult bad = session().status()) return bad;
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

// Destroys everything in the primary context, on both sides.
CUresult reset_primary() {
    forget_captures();
    forget_graphs();
    forget_pools();
    forget_mirrors();
    memory_forget_all();
    handles().erase_context(wire::kPrimaryContext);
    // The answer itself, not the sticky error that it ends.
    CUresult result = CUDA_ERROR_UNKNOWN;
    const CUresult settled = ask(
        static_cast<uint16_t>(wire::Internal::reset), wire::kPrimaryContext, [](wire::Writer&) {},
        [&](CUresult answer, wire::Reader&) { result = answer; }, true);
    if (result == CUDA_ERROR_UNKNOWN) return settled;
    if (result == CUDA_SUCCESS) session().forgive();
    return result;
}

CUresult create(CUcontext* out, unsigned int flags, CUdevice device) {
    if (const CUresult bad = check(device)) return bad;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    work.streams.store(true, std::memory_order_relaxed);
    Context* context = make_context(0, false);
    context->flags = flags;
    const CUresult result = ask(
        Call::cuCtxCreate_v4,
        [&](wire::Writer& w) {
            w.put(uint64_t{context->wire});
            w.put(flags);
        },
        [](CUresult, wire::Reader&) {});
    if (result != CUDA_SUCCESS) {
        handles().erase(Handles::name(context->handle));
        return result;
    }
    stack().push_back(context);
    *out = context->handle;
    return CUDA_SUCCESS;
}

}  // namespace

Context* primary_context() {
    static Context* const context = make_context(wire::kPrimaryContext, true);
    return context;
}

Context* find_context(CUcontext handle) {
    const uint32_t name = Handles::name(handle);
    if (handles().kind(name) != Kind::context) return nullptr;
    return static_cast<Context*>(handles().object(name));
}

Context* current_context() {
    return stack().empty() ? nullptr : stack().back();
}

}  // namespace carrel::client

using namespace carrel;
using namespace carrel::client;

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext* pctx, CUdevice dev) {
    if (const CUresult bad = check(dev)) return bad;
    if (!pctx) return CUDA_ERROR_INVALID_VALUE;
    const std::lock_guard lock(primary.mutex);
    ++primary.references;
    if (primary.flags_set) primary_context()->flags = primary.flags;
    *pctx = primary_context()->handle;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease_v2(CUdevice dev) {
    if (const CUresult bad = check(dev); bad && !corrupts_context(bad)) return bad;
    const std::lock_guard lock(primary.mutex);
    if (!primary.references) return CUDA_ERROR_INVALID_CONTEXT;
    return --primary.references ? CUDA_SUCCESS : reset_primary();
}

CUresult CUDAAPI cuDevicePrimaryCtxReset_v2(CUdevice dev) {
    if (const CUresult bad = check(dev); bad && !corrupts_context(bad)) return bad;
    const std::lock_guard lock(primary.mutex);
    return reset_primary();
}

CUresult CUDAAPI cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags) {
    if (const CUresult bad = check(dev)) return bad;
    const std::lock_guard lock(primary.mutex);
    primary.flags = flags;
    primary.flags_set = true;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int* flags, int* active) {
    if (const CUresult bad = check(dev)) return bad;
    const std::lock_guard lock(primary.mutex);
    if (flags) *flags = primary.flags_set ? primary.flags : session().snapshot().context_flags;
    if (active) *active = primary.references != 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxCreate_v2(CUcontext* pctx, unsigned int flags, CUdevice_v1 dev) {
    return create(pctx, flags, dev);
}

CUresult CUDAAPI cuCtxCreate_v3(CUcontext* pctx, CUexecAffinityParam* paramsArray, int numParams,
                                unsigned int flags, CUdevice_v1 dev) {
    if (paramsArray && numParams) return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    return create(pctx, flags, dev);
}

CUresult CUDAAPI cuCtxCreate_v4(CUcontext* pctx, CUctxCreateParams* ctxCreateParams,
                                unsigned int flags, CUdevice dev) {
    if (ctxCreateParams && ctxCreateParams->numExecAffinityParams) {
        return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    }
    if (ctxCreateParams && ctxCreateParams->cigParams) return CUDA_ERROR_NOT_SUPPORTED;
    return create(pctx, flags, dev);
}

CUresult CUDAAPI cuCtxDestroy_v2(CUcontext ctx) {
    if (const CUresult bad = session().status()) return bad;
    Context* context = find_context(ctx);
    if (!context || context->primary) return CUDA_ERROR_INVALID_CONTEXT;
    if (!stack().empty() && stack().back() == context) stack().pop_back();
    handles().erase_context(context->wire);
    handles().erase(Handles::name(ctx));
    return ask(
        Call::cuCtxDestroy_v2, [&](wire::Writer& w) { w.put(uint64_t{context->wire}); },
        [](CUresult, wire::Reader&) {});
}

CUresult CUDAAPI cuCtxPushCurrent_v2(CUcontext ctx) {
    if (const CUresult bad = session().status(); bad && !corrupts_context(bad)) return bad;
    Context* context = find_context(ctx);
    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
    stack().push_back(context);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxPopCurrent_v2(CUcontext* pctx) {
    if (const CUresult bad = session().status(); bad && !corrupts_context(bad)) return bad;
    if (stack().empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (pctx) *pctx = stack().back()->handle;
    stack().pop_back();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxSetCurrent(CUcontext ctx) {
    if (const CUresult bad = session().status(); bad && !corrupts_context(bad)) return bad;
    if (!ctx) {
        if (!stack().empty()) stack().pop_back();
        return CUDA_SUCCESS;
    }
    Context* context = find_context(ctx);
    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
    if (stack().empty()) {
        stack().push_back(context);
    } else {
        stack().back() = context;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext* pctx) {
    if (const CUresult bad = session().status(); bad && !corrupts_context(bad)) return bad;
    if (!pctx) return CUDA_ERROR_INVALID_VALUE;
    const Context* context = current_context();
    *pctx = context ? context->handle : nullptr;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice* device) {
    if (!current_context()) return no_context();
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetDevice_v2(CUdevice* device, CUcontext ctx) {
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    if (!ctx) return cuCtxGetDevice(device);
    if (!find_context(ctx)) return CUDA_ERROR_INVALID_CONTEXT;
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetFlags(unsigned int* flags) {
    const Context* context = current_context();
    if (!context) return no_context();
    if (!flags) return CUDA_ERROR_INVALID_VALUE;
    *flags = context->flags;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxSetFlags(unsigned int flags) {
    Context* context = current_context();
    if (!context) return no_context();
    context->flags = flags;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetId(CUcontext ctx, unsigned long long* ctxId) {
    const Context* context = ctx ? find_context(ctx) : current_context();
    if (!context) return no_context();
    if (!ctxId) return CUDA_ERROR_INVALID_VALUE;
    *ctxId = context->id;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetApiVersion(CUcontext ctx, unsigned int* version) {
    const Context* context = ctx ? find_context(ctx) : current_context();
    if (!context) return no_context();
    if (!version) return CUDA_ERROR_INVALID_VALUE;
    *version = 3020;  // contexts have been those of CUDA 3.2 ever since
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetStreamPriorityRange(int* leastPriority, int* greatestPriority) {
    if (!current_context()) return no_context();
    if (leastPriority) *leastPriority = session().snapshot().least_priority;
    if (greatestPriority) *greatestPriority = session().snapshot().greatest_priority;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int) {
    if (!find_context(peerContext)) return CUDA_ERROR_INVALID_CONTEXT;
    return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;  // a slice is one device
}

CUresult CUDAAPI cuCtxDisablePeerAccess(CUcontext peerContext) {
    if (!find_context(peerContext)) return CUDA_ERROR_INVALID_CONTEXT;
    return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
}

CUresult CUDAAPI cuCtxSynchronize() {
    const uint64_t issued = work.issued.load(std::memory_order_relaxed);
    const CUresult result =
        ask(Call::cuCtxSynchronize, [](wire::Writer&) {}, [](CUresult, wire::Reader&) {});
    if (result == CUDA_SUCCESS) note_finished(issued);
    return result;
}

CUresult CUDAAPI cuCtxSynchronize_v2(CUcontext ctx) {
    if (!ctx) return cuCtxSynchronize();
    const Context* context = find_context(ctx);
    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
    trace(Call::cuCtxSynchronize_v2, true);
    const MirrorWait mirrored;
    const CUresult result = ask(
        static_cast<uint16_t>(Call::cuCtxSynchronize), context->wire, [](wire::Writer&) {},
        [](CUresult, wire::Reader&) {});
    return result ? result : mirrored.collect(false);
}
