/** A lock server within the test process. It records its requests and returns the answers of the test. */
import type { Backend, BusyAnswer, OnLockMessage } from '../../../src/shared/locks/core/backend.ts'

const BUSY: BusyAnswer = { granted: false, ticket: 0, slot: 0, ahead: 0, waiting: 0, free_in_ms: -1, holder: 'other' }

export interface RecordingBackend extends Backend {
  /** the requests in order: `attempt RESOURCE`, `extend RESOURCE`, `release RESOURCE`, `cancel RESOURCE` */
  readonly asked: string[]
  /** delivers a message, as the subscription to a lock server does */
  deliver: OnLockMessage
}

/** @param answers override those of a server on which every lock is free */
export function recordingBackend(answers: Partial<Backend> = {}): RecordingBackend {
  const asked: string[] = []
  let token = 0
  let listener: OnLockMessage | undefined
  const plain: Backend = {
    newOwnerId: ({ waiter_id }) => `id-${waiter_id}`,
    attempt: async () => ({ granted: true, token: ++token }),
    extend: async () => 0,
    release: async () => 'released',
    cancel: async () => {},
    force: async () => ({ token: ++token, revoked_holders: [] }),
    inspect: async () => [],
    list: async () => [],
    listen(onMessage) {
      listener = onMessage
    },
    close: async () => {},
  }
  const { attempt, extend, release, cancel } = { ...plain, ...answers }
  return {
    ...plain,
    ...answers,
    asked,
    deliver: ((waiter_id: number, what?: 'taken') => listener?.(waiter_id, what)) as OnLockMessage,
    attempt(request) {
      asked.push(`attempt ${request.resource}`)
      return attempt(request)
    },
    extend(resource, id, ttl_ms) {
      asked.push(`extend ${resource}`)
      return extend(resource, id, ttl_ms)
    },
    release(resource, id, indexed) {
      asked.push(`release ${resource}`)
      return release(resource, id, indexed)
    },
    cancel(resource, id) {
      asked.push(`cancel ${resource}`)
      return cancel(resource, id)
    },
  }
}

/** Returns the answer to a request that joins the queue: a slot behind a holder that keeps its lock. */
export function queued(): BusyAnswer {
  return { ...BUSY, ticket: 1, slot: 1, waiting: 1, free_in_ms: 60_000 }
}

export function busy(): BusyAnswer {
  return { ...BUSY }
}
