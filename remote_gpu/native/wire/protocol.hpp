// The layouts of what client and worker say to each other. Part of the protocol hash: whatever
// changes here makes clients and workers of different builds refuse each other.
#pragma once
