#include "wire/snapshot.hpp"

namespace carrel::wire {

void Snapshot::encode(Writer& out) const {
    out.text(session);
    out.text(name);
    out.text(pci_bus_id);
    out.put(uuid);
    out.put(driver_version);
    out.put(total_memory);
    out.put(tflops);
    out.put(least_priority);
    out.put(greatest_priority);
    out.put(context_flags);
    out.put(static_cast<uint32_t>(attributes.size()));
    for (const auto& [number, value] : attributes) {
        out.put(number);
        out.put(value);
    }
}

Snapshot Snapshot::decode(Reader& in) {
    Snapshot s;
    s.session = in.text();
    s.name = in.text();
    s.pci_bus_id = in.text();
    s.uuid = in.get<std::array<char, 16>>();
    s.driver_version = in.get<int32_t>();
    s.total_memory = in.get<uint64_t>();
    s.tflops = in.get<double>();
    s.least_priority = in.get<int32_t>();
    s.greatest_priority = in.get<int32_t>();
    s.context_flags = in.get<uint32_t>();
    const auto count = in.get<uint32_t>();
    if (count > 4096) throw Malformed("a snapshot has too many attributes");
    for (uint32_t i = 0; i < count; ++i) {
        const auto number = in.get<int32_t>();
        s.attributes.emplace_back(number, in.get<int32_t>());
    }
    return s;
}

}  // namespace carrel::wire
