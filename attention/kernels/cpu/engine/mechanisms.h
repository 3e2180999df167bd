// Mechanisms by name: libraries of compiled functions, loaded while the process runs.
#pragma once
#include "table.h"

#include <ATen/core/Tensor.h>
#include <dlfcn.h>

#include <mutex>
#include <string>
#include <unordered_map>

namespace {

std::mutex loading;
std::unordered_map<std::string, const Mechanism*> loaded;

void load_mechanism(std::string name, std::string path) {
  std::lock_guard<std::mutex> guard(loading);
  if (loaded.count(name)) return;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  TORCH_CHECK(library, "cannot load ", path, ": ", dlerror());
  auto table = reinterpret_cast<const Mechanism* (*)()>(dlsym(library, "mechanism"));
  TORCH_CHECK(table, path, " exports no mechanism");
  loaded[name] = table();
}

const Mechanism& find_mechanism(const std::string& name) {
  std::lock_guard<std::mutex> guard(loading);
  auto found = loaded.find(name);
  TORCH_CHECK(found != loaded.end(), "no compiled functions for ", name, " are loaded");
  return *found->second;
}

}  // namespace
