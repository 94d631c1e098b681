// What a null library says where zeros would not do: versions, algorithms, what there is of them.
#pragma once

#include <cstdint>

#include "wire/library.hpp"

namespace carrel::null {

// Called after outputs have been zeroed. What the function returns: 0 where that is a status.
using Answer = uint64_t (*)(const uint64_t* arguments);

// nullptr: zeros will do.
Answer find_answer(const char* function);

// Of functions that return how many algorithms they found: the first output is the count.
bool counts_algorithms(const char* function);

}  // namespace carrel::null
