/* What every rank of a staged run does, for all interleavings of a small world.
 *
 * The program step_tables writes step_tables.pml from real schedules. What is left out stands in
 * docs/design/schedule.md, "Every interleaving of small worlds". Variants, each a -D of its own:
 *
 *   STREAM    memory is freed and taken between the stages, by words of the watermark
 *   ROUNDS    with STREAM: each word of the dissemination by itself; else all are heard together
 *   BUFFERED  a send may end before its receive is posted
 *   IN_ORDER  each rank's copies, and its exchanges, end in the order in which they were submitted
 *   A_DEATH   one rank stops at some point, and every other one must end
 *   A_FAILURE the same of a rank that fails by itself, as without memory
 *   BREAKS_*  a fault that the check must find
 */

#include "step_tables.pml"

#define NUM_SLOTS 2
#define STAGES_TO_HEAR 2 /* as in csrc/execution/streamed_stages.cpp */
#define NOBODY 255
/* Rounds of a dissemination: a word to the rank 1, 2, 4, ... further. */
#define NUM_ROUNDS ((NUM_RANKS > 1) + (NUM_RANKS > 2) + (NUM_RANKS > 4))

#ifdef BREAKS_RETIRES_LATE
#define RETIRES_BEHIND 3
#else
#define RETIRES_BEHIND NUM_SLOTS
#endif
#ifdef BREAKS_FREES_EARLY
#define FREES_EARLY 1
#else
#define FREES_EARLY 0
#endif

/* ---- State ---- */

/* Of each rank. What the host has done is counted, as it does it in order; the rest is a bit for
 * each stage. */
byte begun[NUM_RANKS];    /* stages submitted: their copies, and their messages */
byte received[NUM_RANKS]; /* stages whose receives are posted */
byte landed[NUM_RANKS];   /* stages retired: all that they submitted has ended */
byte packed[NUM_RANKS];
byte unpacked[NUM_RANKS];

/* Messages of each rank and stage that have not ended at this rank. */
byte to_send[NUM_RANKS * NUM_STAGES];
byte to_receive[NUM_RANKS * NUM_STAGES];
short received_bytes[NUM_RANKS]; /* of parts */

bit has_left[NUM_MESSAGES + 1]; /* ended for its sender */
bit has_come[NUM_MESSAGES + 1];

#ifdef STREAM
byte freed[NUM_RANKS]; /* storages of the source, a bit for each */
byte taken[NUM_RANKS]; /* storages of the target */
byte told[NUM_RANKS];  /* words given to the watermark's thread */
byte num_told[NUM_STAGES + 2]; /* ranks that have told so often */
#ifdef ROUNDS
byte heard[NUM_RANKS]; /* rounds of words that this thread has ended */
#endif
#endif

#if defined(A_DEATH) || defined(A_FAILURE)
#define CAN_FAIL
byte struck = NOBODY;     /* who dies, or fails first */
bit failed[NUM_RANKS];    /* its run has failed: the transports of messages and words are aborted */
bit mute[NUM_RANKS];      /* its watermark has failed, and has aborted the transport of words */
bit has_ended[NUM_RANKS]; /* its run has ended well */
#define FAIL(rank) failed[rank] = 1
#define END(rank) has_ended[rank] = 1
#ifdef A_DEATH
#define IS_DEAD(rank) (struck == (rank))
#define STRIKE(rank) struck = rank
#else
#define IS_DEAD(rank) false
#define STRIKE(rank) struck = rank; FAIL(rank)
#endif
#define IS_GONE(rank) (IS_DEAD(rank) || failed[rank])
#ifdef BREAKS_FAILS_SILENTLY
#define IS_MUTE(rank) (IS_DEAD(rank) || mute[rank])
#else
#define IS_MUTE(rank) (IS_GONE(rank) || mute[rank])
#endif
#else
#define FAIL(rank) skip
#define END(rank) skip
#define IS_GONE(rank) false
#define IS_MUTE(rank) false
#endif

/* ---- What has ended ---- */

#define AT(rank, stage) ((rank) * NUM_STAGES + (stage))
#define HAS(set, stage) (((set) >> (stage)) & 1)

#define IS_EXCHANGED(rank, stage) (to_send[AT(rank, stage)] + to_receive[AT(rank, stage)] == 0)
/* The truth about a stage; a rank learns of it by waiting. */
#define HAS_ENDED(rank, stage) \
  (HAS(packed[rank], stage) && HAS(unpacked[rank], stage) && IS_EXCHANGED(rank, stage))

#ifdef BREAKS_IGNORES_SENDS
#define IS_WAITED_FOR(rank, stage) (HAS(unpacked[rank], stage) && to_receive[AT(rank, stage)] == 0)
#else
#define IS_WAITED_FOR(rank, stage) HAS_ENDED(rank, stage)
#endif

/* Nobody uses the slot of this stage for an earlier one. */
#define SLOT_IS_FREE(rank, stage) \
  ((stage) < NUM_SLOTS || HAS_ENDED(rank, (stage < NUM_SLOTS -> 0 : stage - NUM_SLOTS)))

/* ---- Copies and messages ---- */

#ifdef STREAM
#define ASSERT_READABLE(rank, storages) assert((freed[rank] & (storages)) == 0)
#define ASSERT_WRITABLE(rank, storages) assert((taken[rank] & (storages)) == (storages))
#else
#define ASSERT_READABLE(rank, storages) skip
#define ASSERT_WRITABLE(rank, storages) skip
#endif

#ifdef IN_ORDER
#define FORMER(stage) (stage == 0 -> 0 : stage - 1)
#define IS_TURN_OF_PACK(rank, stage) (stage == 0 || HAS(unpacked[rank], FORMER(stage)))
#define IS_TURN_OF_UNPACK(rank, stage) HAS(packed[rank], stage)
#define IS_TURN_OF_EXCHANGE(rank, stage) (stage == 0 || IS_EXCHANGED(rank, FORMER(stage)))
#else
#define IS_TURN_OF_PACK(rank, stage) true
#define IS_TURN_OF_UNPACK(rank, stage) true
#define IS_TURN_OF_EXCHANGE(rank, stage) true
#endif

/* Copies, each at any time from when it is submitted and what it waits for has ended. A local copy
 * goes with the unpacking: as late as it can. */
#define COPIES(rank, stage, sends, receives, reads, writes, packs, unpacks) \
  :: d_step { begun[rank] > stage && !HAS(packed[rank], stage) && \
       IS_TURN_OF_PACK(rank, stage) && !IS_GONE(rank) -> \
     assert(SLOT_IS_FREE(rank, stage)); \
     ASSERT_READABLE(rank, reads); \
     packed[rank] = packed[rank] | (1 << stage) } \
  :: d_step { begun[rank] > stage && !HAS(unpacked[rank], stage) && \
       to_receive[AT(rank, stage)] == 0 && IS_TURN_OF_UNPACK(rank, stage) && !IS_GONE(rank) -> \
     ASSERT_READABLE(rank, reads); \
     ASSERT_WRITABLE(rank, writes); \
     unpacked[rank] = unpacked[rank] | (1 << stage) }

/* What is to be done; a stage without such copies has none to wait for. */
#define IS_AHEAD(rank, stage, sends, receives, reads, writes, packs, unpacks) \
  to_send[AT(rank, stage)] = sends; \
  to_receive[AT(rank, stage)] = receives; \
  packed[rank] = packed[rank] | ((1 - packs) << stage); \
  unpacked[rank] = unpacked[rank] | ((1 - unpacks) << stage);

#define IS_SENT(src, stage) \
  (begun[src] > stage && HAS(packed[src], stage) && IS_TURN_OF_EXCHANGE(src, stage) && \
   !IS_GONE(src))
#define IS_AWAITED(dst, stage) \
  (received[dst] > stage && IS_TURN_OF_EXCHANGE(dst, stage) && !IS_GONE(dst))

/* The wire takes any message that stands at both ends. A direct one reads and writes storages, a
 * packed one slots. */
#define TRAVELS(message, src, sent_in, sent_bytes, reads, \
                dst, received_in, size_bytes, writes, part_bytes) \
  :: d_step { !has_come[message] && IS_AWAITED(dst, received_in) && \
       (has_left[message] || IS_SENT(src, sent_in)) -> \
     assert(sent_in == received_in && sent_bytes == size_bytes); \
     assert((reads == 0) == (writes == 0)); \
     assert(writes != 0 || SLOT_IS_FREE(dst, received_in)); \
     ASSERT_WRITABLE(dst, writes); \
     if \
     :: has_left[message] \
     :: else -> ASSERT_READABLE(src, reads); has_left[message] = 1; to_send[AT(src, sent_in)]-- \
     fi; \
     has_come[message] = 1; \
     to_receive[AT(dst, received_in)]--; \
     received_bytes[dst] = received_bytes[dst] + part_bytes }

/* A wire with memory of its own. */
#define LEAVES(message, src, sent_in, sent_bytes, reads, \
               dst, received_in, size_bytes, writes, part_bytes) \
  :: d_step { !has_left[message] && IS_SENT(src, sent_in) -> \
     ASSERT_READABLE(src, reads); \
     has_left[message] = 1; \
     to_send[AT(src, sent_in)]-- }

#define IS_STRUCK(rank, plan_bytes, source, target) \
  :: d_step { struck == NOBODY && !has_ended[rank] -> STRIKE(rank) }
/* A posted message whose other end is gone fails, and its rank aborts. */
#define FAILS(message, src, sent_in, sent_bytes, reads, \
              dst, received_in, size_bytes, writes, part_bytes) \
  :: d_step { !has_left[message] && begun[src] > sent_in && IS_GONE(dst) && !IS_GONE(src) -> \
     FAIL(src) } \
  :: d_step { !has_come[message] && received[dst] > received_in && IS_GONE(src) && \
       !IS_GONE(dst) -> \
     FAIL(dst) }

/* ---- Words ---- */

#ifdef ROUNDS
/* This rank's word of a round, and the one that it waits for: an exchange of its own, without
 * memory on the wire. */
#define DISTANCE(round) (1 << ((round) % NUM_ROUNDS))
#define TO(rank) ((rank + DISTANCE(heard[rank])) % NUM_RANKS)
#define FROM(rank) ((rank + NUM_RANKS - DISTANCE(heard[rank])) % NUM_RANKS)
#define IS_TELLING(rank) (told[rank] * NUM_ROUNDS > heard[rank] && !IS_MUTE(rank))
#define MEETS(rank, peer) \
  (heard[peer] > heard[rank] || \
   (heard[peer] == heard[rank] && told[peer] * NUM_ROUNDS > heard[rank] && !IS_MUTE(peer)))
#define WORDS(rank, plan_bytes, source, target) \
  :: d_step { IS_TELLING(rank) && MEETS(rank, TO(rank)) && MEETS(rank, FROM(rank)) -> \
     heard[rank]++ }
#define WORDS_FAIL(rank, plan_bytes, source, target) \
  :: d_step { IS_TELLING(rank) && (IS_MUTE(TO(rank)) || IS_MUTE(FROM(rank))) -> mute[rank] = 1 }
#endif

/* Everything that happens beside the hosts. */
proctype Machine() {
end_of_all:
  do
  FOR_EACH_STAGE(COPIES)
  FOR_EACH_MESSAGE(TRAVELS)
#ifdef BUFFERED
  FOR_EACH_MESSAGE(LEAVES)
#endif
#ifdef ROUNDS
  FOR_EACH_RANK(WORDS)
#endif
#ifdef CAN_FAIL
  FOR_EACH_RANK(IS_STRUCK)
  FOR_EACH_MESSAGE(FAILS)
#ifdef ROUNDS
  FOR_EACH_RANK(WORDS_FAIL)
#endif
#endif
  od
}

/* ---- Hosts ---- */

/* The host goes on when `condition` holds; a wait of a run that has failed throws. */
#ifdef CAN_FAIL
#define WAIT_UNTIL(condition) \
  if \
  :: !IS_GONE(rank) && (condition) \
  :: IS_GONE(rank) -> goto over \
  fi
#else
#define WAIT_UNTIL(condition) (condition)
#endif

#ifdef STREAM
/* The word says what is true, and is not waited for. */
#define TELL(num_landed) \
  assert(landed[rank] >= (num_landed)); \
  told[rank]++; \
  num_told[told[rank]]++

#ifdef ROUNDS
#define HAS_HEARD(number) (heard[rank] >= (number) * NUM_ROUNDS)
#define WORDS_HAVE_FAILED IS_MUTE(rank)
#else
#define HAS_HEARD(number) (num_told[number] == NUM_RANKS)
#define OR_IS_MUTE(other, plan_bytes, source, target) || IS_MUTE(other)
#define WORDS_HAVE_FAILED (false FOR_EACH_RANK(OR_IS_MUTE))
#endif

#ifdef BREAKS_HEARS_NOTHING
#define HEAR(number) skip
#else
/* Until every rank has told for the time `number`, counted from 1. */
#define HEAR(number) \
  if \
  :: !IS_GONE(rank) && HAS_HEARD(number) -> assert(num_told[number] == NUM_RANKS) \
  :: IS_GONE(rank) || WORDS_HAVE_FAILED -> FAIL(rank); goto over \
  fi
#endif

#define IS_FREED(owner, stage_of_plan, storages) \
  if \
  :: rank == owner && stage + FREES_EARLY == stage_of_plan -> freed[rank] = freed[rank] | storages \
  :: else \
  fi;
#define IS_TAKEN(owner, stage_of_plan, storages) \
  if \
  :: rank == owner && stage == stage_of_plan -> taken[rank] = taken[rank] | storages \
  :: else \
  fi;
/* Whoever gets anything of what is gone has all of it: a rank that dies takes its copy with it. */
#define IS_NEEDED_NO_MORE(owner, storage, reader, num_stages) \
  assert(!(freed[owner] & storage) || landed[reader] >= num_stages);

#define CHANGE_MEMORY \
  d_step { \
    FOR_EACH_FREED(IS_FREED) \
    FOR_EACH_TAKEN(IS_TAKEN) \
    FOR_EACH_NEED(IS_NEEDED_NO_MORE) \
  }
#endif

#define HAS_ALL(owner, plan_bytes, source, target) \
  if \
  :: rank == owner -> \
     assert(landed[rank] == NUM_STAGES && received_bytes[rank] == plan_bytes); \
     HAS_CHANGED_MEMORY(rank, source, target) \
  :: else \
  fi;
#ifdef STREAM
#define HAS_CHANGED_MEMORY(rank, source, target) \
  assert(freed[rank] == source && taken[rank] == target)
#else
#define HAS_CHANGED_MEMORY(rank, source, target) skip
#endif

/* StagedRun::run. What lies between two waits is one step: of a stage that is submitted, others see
 * nothing until it is packed. */
proctype Host(byte rank) {
  byte stage = 0;
  do
  :: atomic { stage < NUM_STAGES ->
       if
       :: stage >= RETIRES_BEHIND ->
          WAIT_UNTIL(IS_WAITED_FOR(rank, landed[rank]));
          landed[rank]++
       :: else
       fi;
#ifdef STREAM
       TELL((stage < NUM_SLOTS -> 0 : stage - NUM_SLOTS + 1));
       if
       :: stage >= STAGES_TO_HEAR -> HEAR(stage - STAGES_TO_HEAR + 1)
       :: else
       fi;
       CHANGE_MEMORY;
#endif
       begun[rank]++;
#ifdef BREAKS_SENDS_FIRST
       WAIT_UNTIL(to_send[AT(rank, stage)] == 0);
#endif
       received[rank]++;
       stage++ }
  :: atomic { stage == NUM_STAGES && landed[rank] < NUM_STAGES ->
       WAIT_UNTIL(IS_WAITED_FOR(rank, landed[rank]));
       landed[rank]++ }
  :: atomic { stage == NUM_STAGES && landed[rank] == NUM_STAGES -> break }
  od;
#ifdef STREAM
  atomic {
    TELL(NUM_STAGES);
    HEAR(NUM_STAGES + 1);
    CHANGE_MEMORY
  }
#endif
  atomic {
    FOR_EACH_RANK(HAS_ALL)
    END(rank)
  }
over:
  skip
}

#define STARTS(rank, plan_bytes, source, target) run Host(rank);

init {
  atomic {
    FOR_EACH_STAGE(IS_AHEAD)
    run Machine();
    FOR_EACH_RANK(STARTS)
  }
}
