// The classes of CANN that MindSpore's Ascend plug-in makes objects of while it is loaded, as little as it needs of
// them. They are known by their names and layouts alone, with the C++ ABI of before GCC 5.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>

namespace ge {

class AscendString {
 public:
  AscendString(const char *text);
  const char *GetString() const;
  bool operator<(const AscendString &other) const;

 private:
  std::shared_ptr<std::string> text_;
};

AscendString::AscendString(const char *text) {
  if (text != nullptr) text_ = std::make_shared<std::string>(text);
}
const char *AscendString::GetString() const { return text_ == nullptr ? "" : text_->c_str(); }
bool AscendString::operator<(const AscendString &other) const {
  return std::strcmp(GetString(), other.GetString()) < 0;
}

// headers that the plug-in was compiled with fill a map at the object's beginning
class StatusFactory {
 public:
  static StatusFactory *Instance();

 private:
  std::map<uint32_t, std::string> descriptions_;
  char spare_[256] = {0};
};
StatusFactory *StatusFactory::Instance() {
  static auto *only = new StatusFactory;  // never destroyed: the plug-in outlives what is static here
  return only;
}

enum DataType { DT_FLOAT = 0 };

struct TensorType {
  TensorType(const std::initializer_list<DataType> &types);
  std::shared_ptr<int> data;
};
TensorType::TensorType(const std::initializer_list<DataType> &) {}

struct Promote {
  Promote(const std::initializer_list<const char *> &names);
  std::shared_ptr<void> data;
};
Promote::Promote(const std::initializer_list<const char *> &) {}

}  // namespace ge

extern "C" const char *aclrtGetSocName() {
  const char *chip = std::getenv("STANDIN_CHIP");
  return chip == nullptr ? "Ascend910B3" : chip;
}
