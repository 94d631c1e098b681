// Functions that device code calls and no module defines: printf, malloc, assert, cooperative
// groups.
//
// Each is a FunctionCode like any other, whose one instruction reads the parameters from its frame.
#include <cstdio>
#include <map>

#include "softgpu/ptx/access.hpp"
#include "softgpu/ptx/program.hpp"

namespace carrel::softgpu::ptx {
namespace {

constexpr std::size_t kMaxString = 64 * 1024;
constexpr std::size_t kMaxPrinted = 1024 * 1024;  // of one printf call of one lane

template <class T>
T argument(Warp& w, unsigned lane, std::size_t index) {
    const FunctionCode& function = *w.frame->function;
    T value;
    std::memcpy(&value,
                w.frame->parameters + std::size_t{lane} * function.param_bytes +
                    function.parameters[index].place,
                sizeof(T));
    return value;
}

template <class T>
void set_result(Warp& w, unsigned lane, T value) {
    const FunctionCode& function = *w.frame->function;
    std::memcpy(
        w.frame->parameters + std::size_t{lane} * function.param_bytes + function.results[0].place,
        &value, sizeof(T));
}

template <class T>
T read_memory(Warp& w, std::uint64_t address, unsigned lane) {
    T value;
    std::memcpy(&value, generic_place(w, address, sizeof(T), lane, false), sizeof(T));
    return value;
}

std::string read_string(Warp& w, std::uint64_t address, unsigned lane) {
    std::string text;
    if (address == 0) return "(null)";
    while (text.size() < kMaxString) {
        const char c = read_memory<char>(w, address + text.size(), lane);
        if (c == '\0') break;
        text += c;
    }
    return text;
}

// One conversion of printf, with its arguments taken from the packed buffer that device code
// prepared.
class Formatter {
  public:
    Formatter(Warp& w, unsigned lane, std::uint64_t arguments)
        : warp_(w), lane_(lane), at_(arguments) {}

    std::string run(const std::string& format) {
        std::string out;
        for (std::size_t i = 0; i < format.size() && out.size() < kMaxPrinted;) {
            if (format[i] != '%') {
                out += format[i++];
                continue;
            }
            i = conversion(format, i, out);
        }
        return out;
    }
    [[nodiscard]] int count() const { return count_; }

  private:
    template <class T>
    T take() {
        at_ = (at_ + sizeof(T) - 1) / sizeof(T) * sizeof(T);
        const T value = read_memory<T>(warp_, at_, lane_);
        at_ += sizeof(T);
        return value;
    }

    // Returns where the text goes on. What is not a conversion is printed as it stands.
    std::size_t conversion(const std::string& format, std::size_t start, std::string& out) {
        std::size_t i = start + 1;
        std::string spec = "%";
        const auto number = [&] {
            if (i < format.size() && format[i] == '*') {
                spec += std::to_string(std::min(std::max(take<std::int32_t>(), -4096), 4096));
                ++i;
                return;
            }
            unsigned value = 0;
            bool any = false;
            while (i < format.size() && format[i] >= '0' && format[i] <= '9') {
                value = std::min(value * 10 + static_cast<unsigned>(format[i++] - '0'), 4096U);
                any = true;
            }
            if (any) spec += std::to_string(value);
        };
        while (i < format.size() && std::strchr("-+ #0", format[i]) != nullptr) spec += format[i++];
        number();
        if (i < format.size() && format[i] == '.') {
            spec += format[i++];
            number();
        }
        bool wide = false;
        while (i < format.size() && std::strchr("hlzjtqL", format[i]) != nullptr) {
            wide |= format[i] != 'h';
            ++i;
        }
        const char kind = i < format.size() ? format[i] : '\0';
        switch (kind) {
            case '%':
                out += '%';
                break;
            case 'd':
            case 'i':
                print(out, spec + "lld",
                      wide ? static_cast<long long>(take<std::int64_t>())
                           : static_cast<long long>(take<std::int32_t>()));
                break;
            case 'u':
            case 'o':
            case 'x':
            case 'X':
                print(out, spec + "ll" + kind,
                      wide ? static_cast<unsigned long long>(take<std::uint64_t>())
                           : static_cast<unsigned long long>(take<std::uint32_t>()));
                break;
            case 'c':
                print(out, spec + "c", take<std::int32_t>());
                break;
            case 'e':
            case 'E':
            case 'f':
            case 'F':
            case 'g':
            case 'G':
            case 'a':
            case 'A':
                print(out, spec + kind, take<double>());
                break;
            case 's': {
                const std::string text = read_string(warp_, take<std::uint64_t>(), lane_);
                print(out, spec + "s", text.c_str());
                break;
            }
            case 'p':
                print(out, spec + "p", reinterpret_cast<void*>(take<std::uint64_t>()));
                break;
            default:
                out += format.substr(start, i - start + 1);
                return i + 1;
        }
        if (kind != '%') ++count_;
        return i + 1;
    }

    template <class T>
    static void print(std::string& out, const std::string& spec, T value) {
        char small[256];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        const int size = std::snprintf(small, sizeof small, spec.c_str(), value);
        if (size < 0) return;
        if (static_cast<std::size_t>(size) < sizeof small) {
            out.append(small, static_cast<std::size_t>(size));
            return;
        }
        std::string large(static_cast<std::size_t>(size) + 1, '\0');
        std::snprintf(large.data(), large.size(), spec.c_str(), value);
#pragma GCC diagnostic pop
        large.pop_back();
        out += large;
    }

    Warp& warp_;
    unsigned lane_;
    std::uint64_t at_;
    int count_ = 0;
};

void print(Warp& w, const Inst&, std::uint32_t mask) {
    each_lane(mask, [&](unsigned lane) {
        const std::string format = read_string(w, argument<std::uint64_t>(w, lane, 0), lane);
        Formatter formatter(w, lane, argument<std::uint64_t>(w, lane, 1));
        const std::string text = formatter.run(format);
        if (w.grid->environment->print) {
            const std::lock_guard<std::mutex> lock(w.grid->callback_mutex);
            w.grid->environment->print(text);
        }
        set_result<std::int32_t>(w, lane, formatter.count());
    });
}

void allocate(Warp& w, const Inst&, std::uint32_t mask) {
    each_lane(mask, [&](unsigned lane) {
        std::uint64_t place = 0;
        if (w.grid->environment->allocate) {
            const std::lock_guard<std::mutex> lock(w.grid->callback_mutex);
            place = w.grid->environment->allocate(argument<std::uint64_t>(w, lane, 0));
        }
        set_result(w, lane, place);
    });
}

void release(Warp& w, const Inst&, std::uint32_t mask) {
    each_lane(mask, [&](unsigned lane) {
        const auto place = argument<std::uint64_t>(w, lane, 0);
        if (place == 0 || !w.grid->environment->release) return;
        const std::lock_guard<std::mutex> lock(w.grid->callback_mutex);
        w.grid->environment->release(place);
    });
}

void assertion_failed(Warp& w, const Inst&, std::uint32_t mask) {
    const auto lane = static_cast<unsigned>(std::countr_zero(mask));
    const std::string what = read_string(w, argument<std::uint64_t>(w, lane, 0), lane);
    const std::string file = read_string(w, argument<std::uint64_t>(w, lane, 1), lane);
    const std::string function = read_string(w, argument<std::uint64_t>(w, lane, 3), lane);
    throw Fault(Status::assertion,
                file + ":" + std::to_string(argument<std::uint32_t>(w, lane, 2)) + ": " + function +
                    ": assertion `" + what + "` failed",
                0, lane);
}

// The handle of cooperative groups' grid: anything but null.
void grid_handle(Warp& w, const Inst&, std::uint32_t mask) {
    each_lane(mask, [&](unsigned lane) {
        set_result<std::uint64_t>(w, lane, w.grid->launch.cooperative ? 1 : 0);
    });
}

void grid_synchronise(Warp& w, const Inst&, std::uint32_t mask) {
    if (!w.grid->launch.cooperative)
        throw Fault(Status::trap, "grid synchronisation needs a cooperative launch");
    each_lane(mask, [&](unsigned lane) { set_result<std::uint32_t>(w, lane, 0); });
    Frame* frame = w.frame;
    const std::uint32_t pc = w.pc;
    w.suspend(mask);
    w.wait_for_grid(mask, pc + 1, frame);
}

void return_from_builtin(Warp& w, const Inst&, std::uint32_t mask) {
    w.leave(mask);
}

FunctionCode make(const char* name, const std::vector<unsigned>& sizes, unsigned result_size,
                  Handler run, Control control = Control::plain) {
    FunctionCode code;
    code.name = name;
    std::uint32_t at = 0;
    const auto place = [&at](unsigned size) {
        at = (at + size - 1) / size * size;
        const Transfer transfer{false, false, at, size};
        at += size;
        return transfer;
    };
    for (const unsigned size : sizes) code.parameters.push_back(place(size));
    if (result_size != 0) code.results.push_back(place(result_size));
    code.param_bytes = (at + 15) / 16 * 16;
    Inst work;
    work.run = run;
    work.control = control;
    Inst back;
    back.control = Control::flow;
    back.run = &return_from_builtin;
    code.code = {work, back};
    return code;
}

}  // namespace

const FunctionCode* builtin_function(const std::string& name) {
    static const std::map<std::string, FunctionCode> kFunctions = [] {
        std::map<std::string, FunctionCode> all;
        const auto add = [&all](FunctionCode code) { all.emplace(code.name, std::move(code)); };
        add(make("vprintf", {8, 8}, 4, &print));
        add(make("malloc", {8}, 8, &allocate));
        add(make("free", {8}, 0, &release));
        add(make("__assertfail", {8, 8, 4, 8, 8}, 0, &assertion_failed));
        add(make("cudaCGGetIntrinsicHandle", {4}, 8, &grid_handle));
        add(make("cudaCGSynchronize", {8, 4}, 4, &grid_synchronise, Control::flow));
        return all;
    }();
    const auto found = kFunctions.find(name);
    return found == kFunctions.end() ? nullptr : &found->second;
}

}  // namespace carrel::softgpu::ptx
