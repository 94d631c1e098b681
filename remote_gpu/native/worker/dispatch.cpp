// Which code runs which call.
#include <cstring>

#include "wire/log.hpp"
#include "worker/server.hpp"

namespace carrel::worker {

namespace {

// For the generated cases.
[[maybe_unused]] std::string text(std::span<const std::byte> bytes) {
    return wire::text(bytes);
}

// Calls that change nothing on a stream, so that they need not mark one busy.
bool quiet_call(Call call) {
    switch (call) {
        case Call::cuEventCreate:
        case Call::cuEventDestroy_v2:
        case Call::cuStreamCreate:
        case Call::cuStreamCreateWithPriority:
        case Call::cuStreamDestroy_v2:
        case Call::cuModuleUnload:
        case Call::cuLibraryUnload:
        case Call::cuLinkDestroy:
        case Call::cuKernelGetFunction:
        case Call::cuLibraryGetModule:
            return true;
        default:
            return false;
    }
}

// Graphs do nothing until they are launched in a stream.
bool graph_call(Call call) {
    return std::string_view(call_name(call)).starts_with("cuGraph");
}

// Calls that name a stream without giving it work.
bool only_looks(Call call) {
    switch (call) {
        case Call::cuStreamQuery:
        case Call::cuStreamSynchronize:
        case Call::cuStreamDestroy_v2:
        case Call::cuStreamGetPriority:
        case Call::cuStreamGetFlags:
        case Call::cuStreamGetId:
        case Call::cuStreamGetAttribute:
        case Call::cuStreamSetAttribute:
        case Call::cuStreamBeginCapture_v2:
        case Call::cuStreamBeginCaptureToGraph:
        case Call::cuStreamEndCapture:
        case Call::cuStreamIsCapturing:
        case Call::cuStreamGetCaptureInfo_v3:
        case Call::cuStreamUpdateCaptureDependencies_v2:
            return true;
        default:
            return false;
    }
}

}  // namespace

void Server::dispatch(uint16_t number, wire::Reader& in, uint64_t bulk, Reply& out) {
    try {
        streams_.clear();
        if (number >= static_cast<uint16_t>(wire::Internal::first)) {
            dispatch_internal(static_cast<wire::Internal>(number), in, bulk, out);
            note_work();
            return;
        }
        if (bulk) throw wire::Malformed("bulk data with a call that takes none");
        const auto call = static_cast<Call>(number);
        Objects& objects = objects_;
        const DriverTable& driver = driver_;
        const CUdevice device = device_.device;
        if (call == Call::cuStreamDestroy_v2) forget_stream(in);
        switch (call) {
#include "worker_dispatch.inc"
            default:
                dispatch_manual(call, in, out);
                break;
        }
        // Work without a stream runs on the default one.
        if (!out.wanted() && streams_.empty() && !quiet_call(call) && !graph_call(call)) {
            streams_.push_back(nullptr);
        }
        if (!only_looks(call)) note_work();
    } catch (const BadHandle&) {
        out.result(CUDA_ERROR_INVALID_HANDLE);
    }
}

// After the driver has the work: a stream marked before could be found idle, and be forgotten,
// while its work is on the way.
void Server::note_work() {
    for (const CUstream stream : streams_) {
        // What is captured does not run.
        if (!graphs_.captures(stream)) activity_.touch(context_, stream);
    }
}

// A stream that goes must not be asked any more whether it is idle.
void Server::forget_stream(wire::Reader in) {
    if (const auto* entry = objects_.find(in.get<uint64_t>(), Tag::stream)) {
        activity_.forget(static_cast<CUstream>(entry->handle));
        graphs_.forget(static_cast<CUstream>(entry->handle));
        if (!graphs_.capturing()) activity_.release();
    }
}

void Server::dispatch_manual(Call call, wire::Reader& in, Reply& out) {
    const CUcontext current = context_;
    switch (call) {
        case Call::cuCtxSynchronize:
            answer_when(activity_.check(current), out,
                        [this] { return invoke(driver_.cuCtxSynchronize); });
            break;
        case Call::cuStreamSynchronize: {
            const auto stream = objects_.get<CUstream>(in.get<uint64_t>());
            answer_when(activity_.check(current, stream), out,
                        [this, stream] { return invoke(driver_.cuStreamSynchronize, stream); });
            break;
        }
        case Call::cuEventSynchronize: {
            const auto event = objects_.get<CUevent>(in.get<uint64_t>());
            answer_when(invoke(driver_.cuEventQuery, event), out,
                        [this, event] { return invoke(driver_.cuEventSynchronize, event); });
            break;
        }
        case Call::cuMemGetInfo_v2:
            if (memory_.has_garbage() && activity_.check(current) == CUDA_SUCCESS &&
                activity_.idle()) {
                memory_.reap();
            }
            out.result(CUDA_SUCCESS);
            out.writer().put(ledger_.spare());
            break;
        case Call::cuLaunchKernelEx:
            launch(in, out);
            break;
        case Call::cuLaunchHostFunc:
        case Call::cuStreamAddCallback: {
            const auto stream = objects_.get<CUstream>(in.get<uint64_t>());
            const auto ticket = in.get<uint64_t>();
            const bool captured = in.get<uint8_t>() != 0;
            out.result(captured ? graphs_.capture_host_call(stream, ticket)
                                : host_calls_.enqueue(stream, ticket));
            break;
        }
        case Call::cuCtxCreate_v4:
            create_context(in, out);
            break;
        case Call::cuCtxDestroy_v2:
            destroy_context(in, out);
            break;
        case Call::cuFuncGetAttribute:
        case Call::cuKernelGetAttribute: {
            const auto function = objects_.get<CUfunction>(in.get<uint64_t>());
            int value = 0;
            const auto attribute = in.get<CUfunction_attribute>();
            out.result(invoke(driver_.cuFuncGetAttribute, &value, attribute, function));
            out.writer().put(int32_t{value});
            break;
        }
        case Call::cuFuncSetAttribute:
        case Call::cuKernelSetAttribute: {
            const auto function = objects_.get<CUfunction>(in.get<uint64_t>());
            const auto attribute = in.get<CUfunction_attribute>();
            out.result(invoke(driver_.cuFuncSetAttribute, function, attribute, in.get<int>()));
            break;
        }
        case Call::cuModuleLoadDataEx:
            load_module(in, out);
            break;
        case Call::cuModuleUnload: {
            const auto name = in.get<uint64_t>();
            const auto module = objects_.get<CUmodule>(name);
            objects_.erase<CUmodule>(name);
            out.result(invoke(driver_.cuModuleUnload, module));
            break;
        }
        case Call::cuModuleGetFunction: {
            const auto name = in.get<uint64_t>();
            const auto module = objects_.get<CUmodule>(in.get<uint64_t>());
            CUfunction function = nullptr;
            out.result(invoke(driver_.cuModuleGetFunction, &function, module, in.text().c_str()));
            if (!function) break;
            objects_.bind(name, function);
            describe_function(function, out);
            break;
        }
        case Call::cuModuleEnumerateFunctions:
        case Call::cuLibraryEnumerateKernels:
            list_functions(call == Call::cuLibraryEnumerateKernels, in, out);
            break;
        case Call::cuModuleGetGlobal_v2: {
            const auto module = objects_.get<CUmodule>(in.get<uint64_t>());
            CUdeviceptr base = 0;
            size_t size = 0;
            out.result(
                invoke(driver_.cuModuleGetGlobal_v2, &base, &size, module, in.text().c_str()));
            out.writer().put(uint64_t{base});
            out.writer().put(uint64_t{size});
            break;
        }
        case Call::cuLibraryLoadData:
            load_library(in, out);
            break;
        case Call::cuLibraryUnload: {
            const auto name = in.get<uint64_t>();
            const auto library = objects_.get<CUlibrary>(name);
            objects_.erase<CUlibrary>(name);
            out.result(invoke(driver_.cuLibraryUnload, library));
            break;
        }
        case Call::cuLibraryGetKernel: {
            const auto name = in.get<uint64_t>();
            const auto library = objects_.get<CUlibrary>(in.get<uint64_t>());
            CUkernel kernel = nullptr;
            out.result(invoke(driver_.cuLibraryGetKernel, &kernel, library, in.text().c_str()));
            if (!kernel) break;
            objects_.bind(name, kernel);
            describe_function(objects_.get<CUfunction>(name), out);
            break;
        }
        case Call::cuLibraryGetGlobal:
        case Call::cuLibraryGetManaged: {
            const auto library = objects_.get<CUlibrary>(in.get<uint64_t>());
            CUdeviceptr base = 0;
            size_t size = 0;
            const auto find = call == Call::cuLibraryGetManaged ? driver_.cuLibraryGetManaged
                                                                : driver_.cuLibraryGetGlobal;
            out.result(invoke(find, &base, &size, library, in.text().c_str()));
            out.writer().put(uint64_t{base});
            out.writer().put(uint64_t{size});
            break;
        }
        case Call::cuLibraryGetModule: {
            const auto name = in.get<uint64_t>();
            const auto library = objects_.get<CUlibrary>(in.get<uint64_t>());
            CUmodule module = nullptr;
            out.result(invoke(driver_.cuLibraryGetModule, &module, library));
            if (module) objects_.bind(name, module);
            break;
        }
        case Call::cuKernelGetFunction: {
            const auto name = in.get<uint64_t>();
            objects_.bind(name, objects_.get<CUfunction>(in.get<uint64_t>()));
            break;
        }
        case Call::cuLinkCreate_v2:
            link_create(in, out);
            break;
        case Call::cuLinkAddData_v2:
            link_add(in, out);
            break;
        case Call::cuLinkComplete:
            link_complete(in, out);
            break;
        case Call::cuLinkDestroy:
            link_destroy(in);
            break;
        default:
            dispatch_graph(call, in, out);
            break;
    }
}

void Server::dispatch_internal(wire::Internal call, wire::Reader& in, uint64_t bulk, Reply& out) {
    if (bulk && call != wire::Internal::copy_in && call != wire::Internal::copy_shape &&
        call != wire::Internal::graph_data && call != wire::Internal::mirror_write) {
        throw wire::Malformed("bulk data with a call that takes none");
    }
    switch (call) {
        case wire::Internal::arena: {
            const auto base = in.get<uint64_t>();
            out.result(memory_.reserve(base, in.get<uint64_t>()));
            break;
        }
        case wire::Internal::grow:
            grow(in, out);
            break;
        case wire::Internal::unmap: {
            const auto base = in.get<uint64_t>();
            if (!memory_.discard(base, in.get<uint64_t>())) {
                throw wire::Malformed("memory is given back that was not mapped");
            }
            if (activity_.check(context_) == CUDA_SUCCESS && activity_.idle()) memory_.reap();
            break;
        }
        case wire::Internal::copy_in:
            copy_in(in, bulk, out);
            break;
        case wire::Internal::copy_out:
            copy_out(in, out);
            break;
        case wire::Internal::copy_shape:
            copy_shape(in, bulk, out);
            break;
        case wire::Internal::graph_copy: {
            const auto stream = objects_.get<CUstream>(in.get<uint64_t>());
            const auto device = in.get<uint64_t>();
            const auto bytes = in.get<uint64_t>();
            const auto ticket = in.get<uint64_t>();
            out.result(graphs_.capture_copy(stream, in.get<uint8_t>() != 0, device, bytes, ticket));
            break;
        }
        case wire::Internal::graph_data:
            if (!graphs_.receive(channel_, in.get<uint64_t>(), bulk)) {
                throw wire::Malformed("a copy ends too early");
            }
            break;
        case wire::Internal::graph_names:
            graphs_.name(in);
            break;
        case wire::Internal::mirror_open:
            out.result(mirrors_.open(in, ledger_.own() + ledger_.spare()));
            break;
        case wire::Internal::mirror_close:
            mirrors_.close(in.get<uint64_t>());
            break;
        case wire::Internal::mirror_write:
            out.result(mirrors_.write(in, channel_, bulk));
            break;
        case wire::Internal::mirror_collect:
            if (!out.wanted()) throw wire::Malformed("nobody takes what is collected");
            later(out, [this](Reply& reply) { mirrors_.collect(reply); });
            break;
        case wire::Internal::host_done:
            host_calls_.done(in.get<uint64_t>());
            break;
        case wire::Internal::reset:
            reset(out);
            break;
        case wire::Internal::library:
            libraries_.call(in, out);
            break;
        default:
            throw wire::Malformed("an internal call that does not exist");
    }
}

}  // namespace carrel::worker
