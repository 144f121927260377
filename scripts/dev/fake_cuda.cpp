// A CUDA device without a GPU, for the CPU build of torch. Before autograd runs on fake tensors,
// it asks the device for a guard (current device and stream) and for hooks. LD_PRELOAD loads this
// file, so that its definitions replace those of libtorch_cpu.so.
#include <ATen/DeviceAccelerator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

constexpr auto kCuda = c10::DeviceType::CUDA;

struct FakeHooks final : at::CUDAHooksInterface {
  FakeHooks() = default;
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

struct FakeGuard final : c10::impl::NoOpDeviceGuardImpl<kCuda> {
  c10::Device getDevice() const override { return c10::Device(kCuda, 0); }
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
};

C10_REGISTER_GUARD_IMPL(CUDA, FakeGuard)

}  // namespace

namespace at::detail {
const CUDAHooksInterface& getCUDAHooks() {
  static const FakeHooks hooks;
  return hooks;
}
}  // namespace at::detail

namespace at::accelerator {
std::optional<c10::DeviceType> getAccelerator(bool) { return kCuda; }
}  // namespace at::accelerator
