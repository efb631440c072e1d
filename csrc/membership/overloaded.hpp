#pragma once

namespace dynatrain::membership {

/// One callable of several lambdas, for std::visit.
template <class... Callables>
struct Overloaded : Callables... {
  using Callables::operator()...;
};
template <class... Callables>
Overloaded(Callables...) -> Overloaded<Callables...>;

}  // namespace dynatrain::membership
