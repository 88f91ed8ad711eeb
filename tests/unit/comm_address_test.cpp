#include "accelerate/comm/address.h"

#include <gtest/gtest.h>

namespace accelerate::internal {
namespace {

TEST(Address, OfThisHostOnTheWayToItself) {
  EXPECT_EQ(address_towards("127.0.0.1", 29500), "127.0.0.1");
  EXPECT_TRUE(is_loopback(address_towards("localhost", 29500)));
}

TEST(Address, NoneOnTheWayToAHostThatIsNone) {
  EXPECT_EQ(address_towards("no host has blanks", 29500), "");
  EXPECT_EQ(address_towards("256.0.0.1.invalid", 29500), "");
}

TEST(Address, LoopbackOfBothFamilies) {
  for (const char* address : {"127.0.0.1", "127.0.1.1", "::1"}) EXPECT_TRUE(is_loopback(address)) << address;
  for (const char* address : {"", "10.0.0.1", "12.7.0.1", "::", "fe80::1"}) EXPECT_FALSE(is_loopback(address));
}

}  // namespace
}  // namespace accelerate::internal
