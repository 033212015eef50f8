// The memory by which ranks of one host exchange bytes.
//
// Every rank owns one segment, an anonymous file (memfd) that its peers open
// through /proc/PID/fd: it has no name, so nothing is left behind whoever is
// killed when. A segment is written by its owner, but for the bell and the
// counters by which readers say that they are done.
//
//   head      magic, token | bell | released[0], released[1]
//   pairs     for each rank q: what the owner offers q, and a ring of messages
//   buffers   two, used in turn by collectives
//   blocks    messages; as many as were ever under way at once
//
// Collectives. The owner fills a buffer and offers it to the members of the
// group; each reads it and releases it. A buffer is filled again when all its
// readers have released it, whichever group they belong to. Offers between two
// ranks are taken in order, and both execute the collectives that they share
// in the same order, so an offer needs no group.
//
// Loans. Instead of a buffer the owner offers an address of its own, which the
// members read through the kernel: one copy instead of two, but the owner must
// wait for them before it writes there again. It needs a right to trace that
// some systems withhold; `readsPeers` tries it.
//
// Messages. The sender copies into a block of its own and puts a note into the
// pair's ring; the receiver copies out and marks the block free. A send waits
// only when ringSize notes to one rank are unread.
#ifndef LMC_RUNTIME_COMM_HOST_SHAREDMEMORY_H
#define LMC_RUNTIME_COMM_HOST_SHAREDMEMORY_H

#include "runtime/comm/host/Bell.h"

namespace lmc::runtime {

class SharedMemory {
public:
  static constexpr uint32_t ringSize = 128;
  /// Of one of the two buffers.
  static constexpr int64_t bufferBytes = 1 << 20;

  static StatusOr<std::unique_ptr<SharedMemory>> create(Job &job);
  ~SharedMemory();
  SharedMemory(const SharedMemory &) = delete;

  /// How peers find the segment, and whether they can: the part before the
  /// first space is equal for ranks that share memory.
  /// `hostName` keeps hosts apart that look like one.
  std::string endpoint(const std::string &hostName) const;
  static std::string hostOf(const std::string &endpoint);
  Status attach(int peer, const std::string &endpoint);
  /// Whether this rank can read the memory of all that it is attached to.
  bool readsPeers() const;

  Waiter &waiter() { return theWaiter; }
  Bell &bell();

  // --- collectives; see the drawing above ---
  /// A buffer that nobody reads any more.
  StatusOr<int> acquire();
  std::byte *buffer(int rank, int index) const;
  /// Offers a buffer to the other members; they release it `releases` times in
  /// all, counted once per use of the buffer.
  void offer(const std::vector<int> &members, int buffer, uint32_t signature,
             uint32_t releases);
  /// The buffer that `peer` offers next. A Bug when it means another call.
  StatusOr<int> take(int peer, uint32_t signature);
  void release(int peer, int buffer);
  /// Offers memory of this rank's own until the others have given it back.
  void lend(const std::vector<int> &members, const std::byte *from,
            uint32_t signature);
  /// The address of what `peer` lends next, in `peer`; to be given back.
  StatusOr<uint64_t> borrow(int peer, uint32_t signature);
  Status read(int peer, uint64_t address, std::byte *to, int64_t bytes);
  void giveBack(int peer) { release(peer, lent); }
  /// Returns when everybody has read what was lent.
  Status awaitBorrowers() { return awaitReleases(lent); }

  // --- messages ---
  Status send(int peer, uint64_t channel, const std::byte *source,
              int64_t bytes);
  Status receive(int peer, uint64_t channel, std::byte *target, int64_t bytes);

private:
  struct Head;
  struct Pair;
  struct Offer {
    uint32_t buffer; ///< or `lent`
    uint32_t signature;
    uint64_t address; ///< of a loan, in the owner
  };
  struct Note {
    uint64_t channel;
    uint64_t offset, capacity, bytes; ///< of the block in the sender's segment
  };
  struct Segment {
    int fd = -1;
    std::byte *base = nullptr;
  };
  struct Block {
    uint64_t offset, capacity;
    std::byte *at;
  };
  /// Notes of one channel of one peer, in order; vectors that empty out are
  /// used again, so that a steady exchange allocates nothing.
  struct Queue {
    uint64_t channel;
    std::vector<Note> notes;
    size_t next = 0;
  };
  struct Peer {
    int pid = 0;
    uint32_t offersTaken = 0;
    std::vector<Queue> queues;
    std::vector<Block> mapped;
  };

  explicit SharedMemory(Job &job);
  Status createSegment();
  Head &head(int rank) const;
  Pair &pair(int from, int to) const;
  size_t fixedBytes() const;
  void ring(int peer);
  void publish(const std::vector<int> &members, const Offer &offer,
               uint32_t releases);
  StatusOr<Offer> takeNext(int peer, uint32_t signature, bool isLoan);
  Status awaitReleases(int buffer);
  bool tryRead(int peer, uint64_t address, void *to, size_t bytes) const;
  StatusOr<Block> freeBlock(int64_t bytes);
  Queue &queueOf(int peer, uint64_t channel);
  bool fetchNotes(int peer);
  StatusOr<std::byte *> mapBlock(int peer, const Note &note);

  Job &job;
  const int me, ranks;
  std::vector<Segment> segments;
  std::vector<Peer> peers;
  std::vector<Block> blocks;
  uint64_t fileBytes = 0;
  int nextBuffer = 0;
  static constexpr uint32_t lent = 2; ///< in place of a buffer's index
  uint32_t expectedReleases[3] = {0, 0, 0};
  Waiter theWaiter;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_COMM_HOST_SHAREDMEMORY_H
