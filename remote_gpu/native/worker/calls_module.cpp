// Modules, libraries, link jobs and launches.
#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "wire/log.hpp"
#include "wire/snapshot.hpp"
#include "worker/server.hpp"

namespace carrel::worker {

namespace {

// The driver reads text up to its terminating zero: make sure there is one.
std::vector<char> image_of(std::span<const std::byte> data) {
    std::vector<char> image(data.size() + 1);
    if (!data.empty()) std::memcpy(image.data(), data.data(), data.size());
    return image;
}

// Code as it came, or from the node's store; nullopt: it is not there.
std::optional<std::vector<char>> take_image(wire::Reader& in, const ImageStore& store) {
    const auto form = in.get<wire::ImageForm>();
    if (form > wire::ImageForm::both) throw wire::Malformed("code in no known form");
    wire::Hash hash{};
    uint64_t size = 0;
    if (form != wire::ImageForm::bytes) {
        hash = in.get<wire::Hash>();
        size = in.get<uint64_t>();
        if (size > wire::kMaxPayload) throw wire::Malformed("code that is too large");
    }
    if (form == wire::ImageForm::named) return store.find(hash, size);
    const auto data = in.bytes();
    if (form == wire::ImageForm::both) {
        if (!wire::equal(wire::sha256(data.data(), data.size()), hash))
            throw wire::Malformed("code that is not what it is called");
        store.keep(hash, data);
    }
    return image_of(data);
}

}  // namespace

void Server::load_module(wire::Reader& in, Reply& out) {
    const auto name = in.get<uint64_t>();
    JitJob job(in);
    const auto image = take_image(in, images_);
    if (!image) {
        out.result(static_cast<CUresult>(wire::kImageUnknown));
        return;
    }
    CUmodule module = nullptr;
    out.result(invoke(driver_.cuModuleLoadDataEx, &module, static_cast<const void*>(image->data()),
                      job.count(), job.options(), job.values()));
    job.encode(out.writer());
    if (module) objects_.bind(name, module);
}

void Server::load_library(wire::Reader& in, Reply& out) {
    const auto name = in.get<uint64_t>();
    JitJob job(in);
    const auto image = take_image(in, images_);
    if (!image) {
        out.result(static_cast<CUresult>(wire::kImageUnknown));
        return;
    }
    CUlibrary library = nullptr;
    out.result(invoke(driver_.cuLibraryLoadData, &library, static_cast<const void*>(image->data()),
                      job.options(), job.values(), job.count(),
                      static_cast<CUlibraryOption*>(nullptr), static_cast<void**>(nullptr), 0u));
    job.encode(out.writer());
    if (library) objects_.bind(name, library);
}

void Server::describe_function(CUfunction function, Reply& out) {
    std::vector<wire::ParamInfo> params;
    size_t offset = 0;
    size_t size = 0;
    while (params.size() < 4096 && invoke(driver_.cuFuncGetParamInfo, function, params.size(),
                                          &offset, &size) == CUDA_SUCCESS) {
        params.push_back({static_cast<uint32_t>(offset), static_cast<uint32_t>(size)});
    }
    out.writer().put(static_cast<uint32_t>(params.size()));
    for (const wire::ParamInfo& p : params) out.writer().put(p);
    std::array<int32_t, CU_FUNC_ATTRIBUTE_MAX> attributes{};
    uint32_t known = 0;
    for (int i = 0; i < CU_FUNC_ATTRIBUTE_MAX; ++i) {
        if (invoke(driver_.cuFuncGetAttribute, &attributes[static_cast<size_t>(i)],
                   static_cast<CUfunction_attribute>(i), function) == CUDA_SUCCESS)
            known |= 1u << i;
    }
    out.writer().put(known);
    for (const int32_t value : attributes) out.writer().put(value);
}

void Server::list_functions(bool library, wire::Reader& in, Reply& out) {
    const auto owner = in.get<uint64_t>();
    const auto room = std::min(in.get<uint32_t>(), 65536u);
    std::vector<std::string> names;
    CUresult result;
    const char* name = nullptr;
    if (library) {
        unsigned int count = 0;
        const auto handle = objects_.get<CUlibrary>(owner);
        result = invoke(driver_.cuLibraryGetKernelCount, &count, handle);
        std::vector<CUkernel> kernels(std::min(room, count));
        if (result == CUDA_SUCCESS && !kernels.empty()) {
            result = invoke(driver_.cuLibraryEnumerateKernels, kernels.data(),
                            static_cast<unsigned int>(kernels.size()), handle);
        }
        for (const CUkernel kernel : kernels) {
            if (invoke(driver_.cuKernelGetName, &name, kernel) == CUDA_SUCCESS)
                names.push_back(name);
        }
    } else {
        unsigned int count = 0;
        const auto handle = objects_.get<CUmodule>(owner);
        result = invoke(driver_.cuModuleGetFunctionCount, &count, handle);
        std::vector<CUfunction> functions(std::min(room, count));
        if (result == CUDA_SUCCESS && !functions.empty()) {
            result = invoke(driver_.cuModuleEnumerateFunctions, functions.data(),
                            static_cast<unsigned int>(functions.size()), handle);
        }
        for (const CUfunction function : functions) {
            if (invoke(driver_.cuFuncGetName, &name, function) == CUDA_SUCCESS)
                names.push_back(name);
        }
    }
    out.result(result);
    out.writer().put(static_cast<uint32_t>(names.size()));
    for (const std::string& n : names) out.writer().text(n);
}

void Server::link_create(wire::Reader& in, Reply& out) {
    const auto name = in.get<uint64_t>();
    auto job = std::make_unique<JitJob>(in);
    if (links_.size() >= 4096) throw wire::Malformed("more than 4096 link jobs");
    CUlinkState state = nullptr;
    out.result(
        invoke(driver_.cuLinkCreate_v2, job->count(), job->options(), job->values(), &state));
    if (!state) return;
    objects_.bind(name, state);
    links_[name] = std::move(job);  // the driver writes logs into it until the job is destroyed
}

void Server::link_add(wire::Reader& in, Reply& out) {
    const auto name = in.get<uint64_t>();
    const auto state = objects_.get<CUlinkState>(name);
    const auto type = static_cast<CUjitInputType>(in.get<int32_t>());
    const std::string label = in.text();
    JitJob own(in);
    const auto data = in.bytes();
    std::vector<char> image = image_of(data);
    out.result(invoke(driver_.cuLinkAddData_v2, state, type, static_cast<void*>(image.data()),
                      data.size(), label.empty() ? nullptr : label.c_str(), own.count(),
                      own.options(), own.values()));
    links_.at(name)->encode(out.writer());
}

void Server::link_complete(wire::Reader& in, Reply& out) {
    const auto name = in.get<uint64_t>();
    const auto state = objects_.get<CUlinkState>(name);
    void* image = nullptr;
    size_t size = 0;
    const CUresult result = invoke(driver_.cuLinkComplete, state, &image, &size);
    out.result(result);
    links_.at(name)->encode(out.writer());
    if (result == CUDA_SUCCESS) out.writer().bytes(image, size);
}

void Server::link_destroy(wire::Reader& in) {
    const auto name = in.get<uint64_t>();
    const auto state = objects_.get<CUlinkState>(name);
    invoke(driver_.cuLinkDestroy, state);
    objects_.erase<CUlinkState>(name);
    links_.erase(name);
}

void Server::launch(wire::Reader& in, Reply& out) {
    const auto function = objects_.get<CUfunction>(in.get<uint64_t>());
    const auto stream = objects_.get<CUstream>(in.get<uint64_t>());
    uint32_t sizes[6];
    for (uint32_t& size : sizes) size = in.get<uint32_t>();
    const auto shared = in.get<uint32_t>();
    const auto attribute_count = in.get<uint32_t>();
    size_t params_size = in.get<uint32_t>();
    if (attribute_count > wire::kMaxLaunchAttributes) throw wire::Malformed("too many attributes");
    CUlaunchAttribute attributes[wire::kMaxLaunchAttributes];
    const auto rename = [this](CUevent& event) {
        event = objects_.get<CUevent>(reinterpret_cast<uint64_t>(event));
    };
    for (uint32_t i = 0; i < attribute_count; ++i) {
        attributes[i] = in.get<CUlaunchAttribute>();
        if (attributes[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT) {
            rename(attributes[i].value.programmaticEvent.event);
        } else if (attributes[i].id == CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT) {
            rename(attributes[i].value.launchCompletionEvent.event);
        }
    }
    const auto params = in.raw(params_size);
    // Aligned as the strictest parameter type asks for.
    alignas(16) std::byte buffer[wire::kMaxParams + 4];
    if (params_size > wire::kMaxParams) throw wire::Malformed("too many kernel parameters");
    if (params_size) std::memcpy(buffer, params.data(), params_size);
    void* extra[] = {reinterpret_cast<void*>(kCU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT), buffer,
                     reinterpret_cast<void*>(kCU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT), &params_size,
                     nullptr};
    void** const given = params_size ? extra : nullptr;
    counters_.launches.fetch_add(1, std::memory_order_relaxed);
    if (!attribute_count) {
        out.result(invoke(driver_.cuLaunchKernel, function, sizes[0], sizes[1], sizes[2], sizes[3],
                          sizes[4], sizes[5], shared, stream, static_cast<void**>(nullptr), given));
        return;
    }
    const CUlaunchConfig config{sizes[0], sizes[1], sizes[2], sizes[3],   sizes[4],
                                sizes[5], shared,   stream,   attributes, attribute_count};
    out.result(
        invoke(driver_.cuLaunchKernelEx, &config, function, static_cast<void**>(nullptr), given));
}

}  // namespace carrel::worker
