// Values survive the trip; whatever a stranger sends is either a call or Malformed.
#include <sys/socket.h>

#include <cerrno>
#include <random>
#include <thread>

#include "check.hpp"
#include "cuda_calls.hpp"
#include "wire/channel.hpp"
#include "wire/decoder.hpp"
#include "wire/reader.hpp"
#include "wire/snapshot.hpp"
#include "wire/writer.hpp"

using namespace carrel;
using namespace carrel::wire;

namespace {

std::span<const std::byte> view(const Writer& w) {
    return {w.data(), w.size()};
}

template <class F>
bool malformed(F function) {
    try {
        function();
    } catch (const Malformed&) {
        return true;
    }
    return false;
}

Writer a_call(uint16_t number, uint16_t flags, const std::string& payload, uint64_t bulk = 0) {
    Writer w;
    w.put(CallHeader{number, flags, static_cast<uint32_t>(payload.size()), 7, 1});
    if (flags & kBulk) w.put(bulk);
    w.raw(payload.data(), payload.size());
    return w;
}

}  // namespace

TEST(values_survive) {
    Writer w;
    w.put(uint8_t{200});
    w.put(int64_t{-5});
    w.text("grüße");
    w.put(2.5);
    Reader r(view(w));
    CHECK_EQ(r.get<uint8_t>(), 200);
    CHECK_EQ(r.get<int64_t>(), -5);
    CHECK_EQ(r.text(), std::string("grüße"));
    CHECK_EQ(r.get<double>(), 2.5);
    CHECK_EQ(r.left(), size_t{0});
}

TEST(reading_beyond_the_end_is_malformed) {
    Writer w;
    w.put(uint32_t{1});
    CHECK(malformed([&] { Reader(view(w)).get<uint64_t>(); }));
    Writer lie;
    lie.put(uint64_t{1000});
    lie.raw("abc", 3);
    CHECK(malformed([&] { Reader(view(lie)).bytes(); }));
    Writer huge;
    huge.put(~uint64_t{0});
    CHECK(malformed([&] { Reader(view(huge)).text(); }));
}

TEST(writer_grows_and_rolls_back) {
    Writer w(16);
    for (uint32_t i = 0; i < 10000; ++i) w.put(i);
    const size_t mark = w.size();
    w.text("to be taken back");
    w.truncate(mark);
    Reader r(view(w));
    for (uint32_t i = 0; i < 10000; ++i) CHECK_EQ(r.get<uint32_t>(), i);
    CHECK_EQ(r.left(), size_t{0});
    w.clear();
    w.shrink(64);
    CHECK_EQ(w.capacity(), size_t{256});
}

TEST(snapshot_survives) {
    Snapshot s;
    s.session = "s-1";
    s.name = "Carrel Software GPU";
    s.pci_bus_id = "0000:01:00.0";
    s.uuid[3] = 9;
    s.driver_version = 13000;
    s.total_memory = uint64_t{8} << 30;
    s.tflops = 1.5;
    s.greatest_priority = -5;
    s.attributes = {{75, 8}, {76, 0}};
    Writer w;
    s.encode(w);
    Reader r(view(w));
    const Snapshot t = Snapshot::decode(r);
    CHECK_EQ(t.session, s.session);
    CHECK_EQ(t.name, s.name);
    CHECK_EQ(t.pci_bus_id, s.pci_bus_id);
    CHECK(t.uuid == s.uuid);
    CHECK_EQ(t.total_memory, s.total_memory);
    CHECK_EQ(t.tflops, s.tflops);
    CHECK_EQ(t.greatest_priority, -5);
    CHECK(t.attributes == s.attributes);
    for (size_t cut = 0; cut < w.size(); ++cut) {
        Reader part(view(w).first(cut));
        CHECK(malformed([&] { Snapshot::decode(part); }));
    }
}

TEST(calls_are_cut_from_the_stream) {
    const Writer w = a_call(static_cast<uint16_t>(Call::cuEventRecord), 0, "payload!");
    size_t need = 0;
    for (size_t cut = 0; cut < w.size(); ++cut) {
        CHECK(!decode_call(view(w).first(cut), &need));
        CHECK(need > cut && need <= w.size());
    }
    const auto call = decode_call(view(w), &need);
    REQUIRE(call.has_value());
    CHECK_EQ(call->header.reply, 7u);
    CHECK_EQ(call->payload.size(), size_t{8});
    CHECK_EQ(call->consumed, w.size());
    const Writer bulk = a_call(static_cast<uint16_t>(Internal::copy_in), kBulk, "x", 1 << 20);
    const auto copy = decode_call(view(bulk), &need);
    REQUIRE(copy.has_value());
    CHECK_EQ(copy->bulk, uint64_t{1} << 20);
    CHECK_EQ(copy->consumed, bulk.size());
}

TEST(nonsense_is_malformed) {
    size_t need = 0;
    const auto refuses = [&](const Writer& w) {
        return malformed([&] { decode_call(view(w), &need); });
    };
    CHECK(refuses(a_call(kCallCount, 0, "")));
    CHECK(refuses(a_call(0xFFFF, 0, "")));
    CHECK(refuses(a_call(1, 0x80, "")));
    CHECK(refuses(a_call(1, kBulk, "", ~uint64_t{0})));
    Writer w;
    w.put(CallHeader{1, 0, 0xFFFFFFFF, 0, 0});
    CHECK(refuses(w));
    CHECK(malformed([] { check_frame({99, 0, 0, 0}); }));
    CHECK(malformed([] { check_frame({static_cast<uint16_t>(Frame::end), 0, 0, ~uint64_t{0}}); }));
}

TEST(random_bytes_never_do_harm) {
    std::mt19937 random(1);
    for (int i = 0; i < 20000; ++i) {
        std::vector<std::byte> data(random() % 64);
        for (auto& b : data) b = static_cast<std::byte>(random() % 4 ? 0 : random());
        size_t need = 0;
        try {
            const auto call = decode_call(data, &need);
            if (call) {
                CHECK(call->consumed <= data.size());
            } else {
                CHECK(need > data.size());
            }
        } catch (const Malformed&) {
        }
    }
}

TEST(channel_carries_everything_in_order) {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    Channel sender(ends[0]);
    Channel receiver(ends[1], 1024);
    std::vector<uint32_t> data(1 << 20);
    for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint32_t>(i * 2654435761u);
    std::thread thread([&] {
        const size_t half = data.size() / 2;
        const iovec parts[2] = {{data.data(), half * 4}, {data.data() + half, half * 4}};
        CHECK_EQ(sender.send(parts), 0);
        sender.shutdown();
    });
    std::vector<uint32_t> got(data.size());
    CHECK(receiver.fill(16));
    CHECK(receiver.receive(got.data(), got.size() * 4));
    CHECK(got == data);
    CHECK(!receiver.fill(1));
    CHECK_EQ(receiver.error(), 0);
    thread.join();
}

TEST(sending_bad_memory_is_an_error_not_a_crash) {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    Channel sender(ends[0]);
    Channel receiver(ends[1]);
    char good[8] = "1234567";
    const iovec parts[2] = {{good, 8}, {reinterpret_cast<void*>(16), 8}};
    size_t sent = 0;
    int error = sender.send(parts, &sent);
    if (error == 0) error = sender.send(std::span(parts + 1, 1), &sent);
    CHECK_EQ(error, EFAULT);
}

CARREL_TEST_MAIN
