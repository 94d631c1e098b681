// Waiting for streams and events, and what is known of streams on this side.
#include <algorithm>
#include <cstring>

#include "client/forward.hpp"
#include "client/settled.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

bool known(CUstream stream) {
    return reinterpret_cast<uint64_t>(stream) <= wire::kPerThreadStream ||
           handles().kind(Handles::name(stream)) == Kind::stream;
}

}  // namespace

CUresult CUDAAPI cuStreamSynchronize(CUstream hStream) {
    const Context* context = current_context();
    if (context && settled.covers(hStream, context->wire) && !mirrors_exist() &&
        !captures_exist()) {
        trace(Call::cuStreamSynchronize, false);
        return session().settle(session().status());
    }
    return call(
        Call::cuStreamSynchronize, [&](wire::Writer& w) { w.put(name_of(hStream)); },
        [](wire::Reader&) {});
}

namespace carrel::client {

CUresult complete_for_host(const wire::Writer& arguments) {
    uint64_t target = 0;
    std::memcpy(&target, arguments.data(), std::min(arguments.size(), sizeof target));
    return find_mirror(target) ? cuStreamSynchronize(nullptr) : CUDA_SUCCESS;
}

}  // namespace carrel::client

CUresult CUDAAPI cuEventSynchronize(CUevent hEvent) {
    return call(
        Call::cuEventSynchronize, [&](wire::Writer& w) { w.put(name_of(hEvent)); },
        [](wire::Reader&) {});
}

CUresult CUDAAPI cuStreamGetCtx(CUstream hStream, CUcontext* pctx) {
    if (!current_context()) return no_context();
    if (!known(hStream)) return CUDA_ERROR_INVALID_HANDLE;
    if (!pctx) return CUDA_ERROR_INVALID_VALUE;
    const uint32_t owner = handles().context(Handles::name(hStream));
    if (owner == wire::kPrimaryContext) {
        *pctx = primary_context()->handle;
    } else {
        *pctx = owner ? Handles::handle<CUcontext>(owner) : current_context()->handle;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamGetCtx_v2(CUstream hStream, CUcontext* pCtx, CUgreenCtx* pGreenCtx) {
    if (pGreenCtx) *pGreenCtx = nullptr;
    return cuStreamGetCtx(hStream, pCtx);
}

CUresult CUDAAPI cuStreamGetDevice(CUstream hStream, CUdevice* device) {
    if (!current_context()) return no_context();
    if (!known(hStream)) return CUDA_ERROR_INVALID_HANDLE;
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    *device = 0;
    return CUDA_SUCCESS;
}
