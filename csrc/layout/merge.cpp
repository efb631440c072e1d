#include "dynatrain/layout/shard_map.hpp"

#include "layout/blob.hpp"
#include "layout/describe.hpp"
#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace dynatrain {
namespace {

using SharedSharding = std::shared_ptr<const Sharding>;

/// A cut that one or more publications name, with the sharding that all its tensors share.
struct KnownCut {
  BlobCut cut;
  SharedSharding sharding;
  std::vector<int> ranks;  ///< ascending
};

/// What one publication says of one tensor.
struct Claim {
  const BlobTensor* item = nullptr;
  std::size_t source = 0;  ///< index of the publication
  std::int64_t cut = -1;   ///< index into the known cuts, -1 when not cut
};

class Merger {
 public:
  Merger(std::span<const Publication> publications, int num_present)
      : publications_(publications), num_present_(num_present) {
    check_publishers();
    for (std::size_t source = 0; source < publications.size(); ++source) {
      blobs_.push_back(decode_blob(publications[source].blob));
    }
    for (std::size_t source = 0; source < blobs_.size(); ++source) {
      std::vector<std::int64_t> known;
      for (const BlobCut& cut : blobs_[source].cuts) {
        known.push_back(know(cut));
      }
      for (const BlobTensor& item : blobs_[source].tensors) {
        const bool is_cut = item.cut >= 0;
        claims_.push_back({&item, source, is_cut ? known[static_cast<std::size_t>(item.cut)] : -1});
      }
    }
    std::ranges::stable_sort(claims_, {}, name_of);
  }

  [[nodiscard]] ShardMap merge() {
    std::vector<ShardMap::Entry> entries;
    for (std::size_t begin = 0; begin < claims_.size();) {
      std::size_t end = begin + 1;
      while (end < claims_.size() && name_of(claims_[end]) == name_of(claims_[begin])) {
        ++end;
      }
      const std::span<const Claim> claims = std::span(claims_).subspan(begin, end - begin);
      check_agreement(claims);
      entries.push_back({claims.front().item->tensor, sharding_of(claims)});
      begin = end;
    }
    return ShardMap(std::move(entries));
  }

 private:
  static const std::string& name_of(const Claim& claim) { return claim.item->tensor.name; }

  [[nodiscard]] const std::vector<int>& ranks_of(const Claim& claim) const {
    return publications_[claim.source].ranks;
  }

  void check_publishers() const {
    std::set<int> seen;
    for (const Publication& publication : publications_) {
      for (const int rank : publication.ranks) {
        if (rank < 0 || rank >= num_present_ || !seen.insert(rank).second) {
          refuse_map("cannot join published maps",
                     "rank " + std::to_string(rank) + " is negative, has gone, or published twice",
                     "join one blob of every rank");
        }
      }
    }
  }

  std::int64_t know(const BlobCut& cut) {
    const auto found = std::ranges::find(cuts_, cut, &KnownCut::cut);
    if (found != cuts_.end()) {
      return found - cuts_.begin();
    }
    SharedSharding sharding =
        make_present_sharding(make_compact_sharding(cut.mesh, cut.placements), num_present_);
    std::vector<int> ranks = sharding->ranks();
    cuts_.push_back({cut, std::move(sharding), std::move(ranks)});
    return std::ssize(cuts_) - 1;
  }

  void check_agreement(std::span<const Claim> claims) const {
    const Claim& first = claims.front();
    for (const Claim& other : claims) {
      if (other.item->tensor != first.item->tensor) {
        refuse_map("ranks disagree about '" + name_of(first) + "'",
                   describe_ranks(ranks_of(first)) + ": " + describe(first.item->tensor) + "; " +
                       describe_ranks(ranks_of(other)) + ": " + describe(other.item->tensor),
                   "build the same model on all ranks of a layout");
      }
    }
  }

  /// The sharding that the claims on one tensor make together. Tensors that the same publications
  /// claim in the same way share one sharding.
  [[nodiscard]] SharedSharding sharding_of(std::span<const Claim> claims) {
    std::vector<std::pair<std::size_t, std::int64_t>> signature;
    for (const Claim& claim : claims) {
      if (!claim.item->fragments.empty()) {
        return join(claims);
      }
      signature.emplace_back(claim.source, claim.cut);
    }
    SharedSharding& shared = shared_[std::move(signature)];
    if (shared == nullptr) {
      shared = join(claims);
    }
    return shared;
  }

  [[nodiscard]] SharedSharding join(std::span<const Claim> claims) const {
    std::map<std::int64_t, std::vector<int>> publishers_of_cut;
    std::map<int, std::vector<Fragment>> table;
    std::vector<int> whole;
    for (const Claim& claim : claims) {
      const std::vector<int>& ranks = ranks_of(claim);
      if (claim.cut >= 0) {
        std::vector<int>& publishers = publishers_of_cut[claim.cut];
        publishers.insert(publishers.end(), ranks.begin(), ranks.end());
      } else if (claim.item->fragments.empty()) {
        whole.insert(whole.end(), ranks.begin(), ranks.end());
      }
      for (const int rank : ranks) {
        if (!claim.item->fragments.empty()) {
          table[rank] = claim.item->fragments;
        }
      }
    }
    std::vector<SharedSharding> parts;
    for (auto& [cut, publishers] : publishers_of_cut) {
      const KnownCut& known = cuts_[static_cast<std::size_t>(cut)];
      std::ranges::sort(publishers);
      check_complete(claims, known, publishers);
      parts.push_back(known.sharding);
    }
    if (!table.empty()) {
      parts.push_back(make_table_sharding(std::move(table)));
    }
    if (!whole.empty()) {
      parts.push_back(make_replicated_sharding(std::move(whole)));
    }
    return make_union_sharding(std::move(parts));
  }

  /// Every rank of a mesh that is there must say of the tensor what the others of the mesh say.
  void check_complete(std::span<const Claim> claims,
                      const KnownCut& known,
                      const std::vector<int>& publishers) const {
    if (publishers == known.ranks) {
      return;
    }
    std::vector<int> odd;
    std::ranges::set_symmetric_difference(publishers, known.ranks, std::back_inserter(odd));
    refuse_map(
        "ranks disagree about '" + name_of(claims.front()) + "'",
        describe_ranks(publishers) + ": " + describe(known.cut.placements) + " on " +
            describe(known.cut.mesh) + "; rank " + std::to_string(odd.front()) + ": " +
            describe_claim_of(claims, odd.front()),
        "build the same model on all ranks of a layout, and create optimizer state on all of "
        "them or on none");
  }

  [[nodiscard]] std::string describe_claim_of(std::span<const Claim> claims, int rank) const {
    for (const Claim& claim : claims) {
      if (std::ranges::find(ranks_of(claim), rank) == ranks_of(claim).end()) {
        continue;
      }
      if (claim.cut >= 0) {
        const BlobCut& cut = cuts_[static_cast<std::size_t>(claim.cut)].cut;
        return describe(cut.placements) + " on " + describe(cut.mesh);
      }
      return claim.item->fragments.empty() ? "the whole tensor" : "a list of fragments";
    }
    return "does not publish it";
  }

  std::span<const Publication> publications_;
  int num_present_;
  std::vector<Blob> blobs_;
  std::vector<KnownCut> cuts_;
  std::vector<Claim> claims_;
  std::map<std::vector<std::pair<std::size_t, std::int64_t>>, SharedSharding> shared_;
};

}  // namespace

ShardMap merge_publications(std::span<const Publication> publications, int num_present) {
  return Merger(publications, num_present).merge();
}

}  // namespace dynatrain
