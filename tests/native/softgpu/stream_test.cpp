// Streams and events: order, asynchrony, the default stream's manners, time.
#include <atomic>
#include <chrono>
#include <thread>

#include "driver.hpp"

using namespace carrel::test;

namespace {

using namespace std::chrono_literals;

// A host function that holds its stream until opened.
struct Gate {
    std::atomic<bool> open{false};
    std::atomic<bool> reached{false};
    static void wait(void* self) {
        auto& gate = *static_cast<Gate*>(self);
        gate.reached = true;
        while (!gate.open) std::this_thread::sleep_for(1ms);
    }
};

struct Mark {
    std::atomic<int>* counter;
    int seen = -1;
    static void put(void* self) {
        auto& mark = *static_cast<Mark*>(self);
        mark.seen = mark.counter->fetch_add(1);
    }
};

CUstream make_stream(unsigned flags) {
    CUstream stream = nullptr;
    CHECK_EQ(driver().cuStreamCreate(&stream, flags), CUDA_SUCCESS);
    return stream;
}

TEST(calls_return_before_the_work_is_done) {
    WithContext with;
    const CUstream stream = make_stream(CU_STREAM_NON_BLOCKING);
    Gate gate;
    CHECK_EQ(driver().cuLaunchHostFunc(stream, Gate::wait, &gate), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    gate.open = true;
    CHECK_EQ(driver().cuStreamSynchronize(stream), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamQuery(stream), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamDestroy_v2(stream), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamDestroy_v2(stream), CUDA_ERROR_INVALID_HANDLE);
}

TEST(a_stream_keeps_its_order) {
    WithContext with;
    const CUstream stream = make_stream(CU_STREAM_NON_BLOCKING);
    std::atomic<int> counter{0};
    std::vector<Mark> marks(200, Mark{&counter});
    for (Mark& mark : marks)
        CHECK_EQ(driver().cuLaunchHostFunc(stream, Mark::put, &mark), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamSynchronize(stream), CUDA_SUCCESS);
    for (std::size_t i = 0; i < marks.size(); ++i) CHECK_EQ(marks[i].seen, static_cast<int>(i));
    CHECK_EQ(driver().cuStreamDestroy_v2(stream), CUDA_SUCCESS);
}

TEST(non_blocking_streams_overtake_the_default_stream) {
    WithContext with;
    const CUstream stream = make_stream(CU_STREAM_NON_BLOCKING);
    Gate gate;
    std::atomic<int> counter{0};
    Mark mark{&counter};
    CHECK_EQ(driver().cuLaunchHostFunc(nullptr, Gate::wait, &gate), CUDA_SUCCESS);
    CHECK_EQ(driver().cuLaunchHostFunc(stream, Mark::put, &mark), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamSynchronize(stream), CUDA_SUCCESS);
    CHECK_EQ(mark.seen, 0);
    gate.open = true;
    CHECK_EQ(driver().cuCtxSynchronize(), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamDestroy_v2(stream), CUDA_SUCCESS);
}

TEST(the_default_stream_waits_for_blocking_streams_and_they_for_it) {
    WithContext with;
    const CUstream first = make_stream(CU_STREAM_DEFAULT);
    const CUstream second = make_stream(CU_STREAM_DEFAULT);
    Gate gate;
    std::atomic<int> counter{0};
    Mark in_default{&counter}, in_second{&counter};
    CHECK_EQ(driver().cuLaunchHostFunc(first, Gate::wait, &gate), CUDA_SUCCESS);
    CHECK_EQ(driver().cuLaunchHostFunc(nullptr, Mark::put, &in_default), CUDA_SUCCESS);
    CHECK_EQ(driver().cuLaunchHostFunc(second, Mark::put, &in_second), CUDA_SUCCESS);
    while (!gate.reached) std::this_thread::sleep_for(1ms);
    std::this_thread::sleep_for(20ms);
    CHECK_EQ(counter.load(), 0);
    gate.open = true;
    CHECK_EQ(driver().cuCtxSynchronize(), CUDA_SUCCESS);
    CHECK_EQ(in_default.seen, 0);
    CHECK_EQ(in_second.seen, 1);
    CHECK_EQ(driver().cuStreamDestroy_v2(first), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamDestroy_v2(second), CUDA_SUCCESS);
}

TEST(events_order_streams_and_tell_time) {
    WithContext with;
    const CUstream first = make_stream(CU_STREAM_NON_BLOCKING);
    const CUstream second = make_stream(CU_STREAM_NON_BLOCKING);
    CUevent start = nullptr, end = nullptr, untimed = nullptr;
    CHECK_EQ(driver().cuEventCreate(&start, 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuEventCreate(&end, 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuEventCreate(&untimed, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
    CHECK_EQ(driver().cuEventQuery(start), CUDA_SUCCESS);  // never recorded
    float milliseconds = -1;
    CHECK_EQ(driver().cuEventElapsedTime(&milliseconds, start, end), CUDA_ERROR_INVALID_HANDLE);

    Gate gate;
    std::atomic<int> counter{0};
    Mark mark{&counter};
    CHECK_EQ(driver().cuEventRecord(start, first), CUDA_SUCCESS);
    CHECK_EQ(driver().cuLaunchHostFunc(first, Gate::wait, &gate), CUDA_SUCCESS);
    CHECK_EQ(driver().cuEventRecord(end, first), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamWaitEvent(second, end, 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuLaunchHostFunc(second, Mark::put, &mark), CUDA_SUCCESS);
    CHECK_EQ(driver().cuEventSynchronize(start), CUDA_SUCCESS);
    CHECK_EQ(driver().cuEventElapsedTime(&milliseconds, start, end), CUDA_ERROR_NOT_READY);
    std::this_thread::sleep_for(30ms);
    CHECK_EQ(counter.load(), 0);
    CHECK_EQ(driver().cuEventQuery(end), CUDA_ERROR_NOT_READY);
    gate.open = true;
    CHECK_EQ(driver().cuStreamSynchronize(second), CUDA_SUCCESS);
    CHECK_EQ(mark.seen, 0);
    CHECK_EQ(driver().cuEventElapsedTime(&milliseconds, start, end), CUDA_SUCCESS);
    CHECK(milliseconds >= 25.0f && milliseconds < 60'000.0f);
    CHECK_EQ(driver().cuEventElapsedTime(&milliseconds, start, untimed), CUDA_ERROR_INVALID_HANDLE);
    for (const CUevent event : {start, end, untimed})
        CHECK_EQ(driver().cuEventDestroy_v2(event), CUDA_SUCCESS);
    for (const CUstream stream : {first, second})
        CHECK_EQ(driver().cuStreamDestroy_v2(stream), CUDA_SUCCESS);
}

TEST(streams_wait_for_values_and_write_them) {
    WithContext with;
    const CUstream first = make_stream(CU_STREAM_NON_BLOCKING);
    const CUstream second = make_stream(CU_STREAM_NON_BLOCKING);
    CUdeviceptr word = 0;
    REQUIRE(driver().cuMemAlloc_v2(&word, 4) == CUDA_SUCCESS);
    std::atomic<int> counter{0};
    Mark mark{&counter};
    CHECK_EQ(driver().cuStreamWaitValue32_v2(first, word, 5, CU_STREAM_WAIT_VALUE_GEQ),
             CUDA_SUCCESS);
    CHECK_EQ(driver().cuLaunchHostFunc(first, Mark::put, &mark), CUDA_SUCCESS);
    std::this_thread::sleep_for(10ms);
    CHECK_EQ(counter.load(), 0);
    CHECK_EQ(driver().cuStreamWriteValue32_v2(second, word, 6, 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamSynchronize(first), CUDA_SUCCESS);
    CHECK_EQ(mark.seen, 0);
    CHECK_EQ(driver().cuMemFree_v2(word), CUDA_SUCCESS);
}

TEST(pageable_memory_may_change_after_the_call) {
    WithContext with;
    const CUstream stream = make_stream(CU_STREAM_NON_BLOCKING);
    CUdeviceptr target = 0;
    REQUIRE(driver().cuMemAlloc_v2(&target, 4096) == CUDA_SUCCESS);
    Gate gate;
    std::vector<unsigned char> host(4096, 1);
    CHECK_EQ(driver().cuLaunchHostFunc(stream, Gate::wait, &gate), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemcpyHtoDAsync_v2(target, host.data(), host.size(), stream), CUDA_SUCCESS);
    std::fill(host.begin(), host.end(), static_cast<unsigned char>(2));
    gate.open = true;
    CHECK_EQ(driver().cuStreamSynchronize(stream), CUDA_SUCCESS);
    CHECK(download<unsigned char>(target, 4096) == std::vector<unsigned char>(4096, 1));
    CHECK_EQ(driver().cuMemFree_v2(target), CUDA_SUCCESS);
}

TEST(per_thread_default_streams_are_several) {
    WithContext with;
    const auto per_thread = reinterpret_cast<CUstream>(std::uintptr_t{2});
    unsigned long long here = 0, there = 0;
    CHECK_EQ(driver().cuStreamGetId(per_thread, &here), CUDA_SUCCESS);
    std::thread([&] {
        CHECK_EQ(driver().cuCtxSetCurrent(with.context), CUDA_SUCCESS);
        CHECK_EQ(driver().cuStreamGetId(per_thread, &there), CUDA_SUCCESS);
    }).join();
    CHECK(here != there);
}

TEST(contexts_stack_up) {
    WithContext with;
    CUcontext second = nullptr, seen = nullptr;
    CHECK_EQ(driver().cuCtxCreate_v2(&second, 0, 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuCtxGetCurrent(&seen), CUDA_SUCCESS);
    CHECK(seen == second);
    CHECK_EQ(driver().cuCtxPopCurrent_v2(&seen), CUDA_SUCCESS);
    CHECK_EQ(driver().cuCtxGetCurrent(&seen), CUDA_SUCCESS);
    CHECK(seen == with.context);
    CHECK_EQ(driver().cuCtxDestroy_v2(second), CUDA_SUCCESS);
    CHECK_EQ(driver().cuCtxPushCurrent_v2(second), CUDA_ERROR_INVALID_CONTEXT);
    std::thread([] { CHECK_EQ(driver().cuCtxSynchronize(), CUDA_ERROR_INVALID_CONTEXT); }).join();
}

}  // namespace

CARREL_TEST_MAIN
