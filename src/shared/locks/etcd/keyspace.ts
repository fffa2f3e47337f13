/**
 * The keys of the locks in etcd, and the transactions on them. Invariants: a lock is granted by a transaction that
 * checks that it is the key's turn and that its etcd lease is alive; and the token is a base, which only rises, plus
 * the revision of that transaction, so tokens rise over all resources together, whatever clocks do.
 *
 *   <prefix>lock/<resource>/<uuid>     a holder or waiter (wait-queue.ts); expires with its etcd lease
 *   <prefix>base                       the base of tokens: µs since 1970 when it was first written
 *   <prefix>robbed/<channel>/<uuid>    notifies a process that its lock was revoked; expires with the revoked lease
 */
import type { ICompare, IRequestOp, IResponseOp, ITxnRequest } from 'etcd3'
import type { Attempt } from '../core/backend.ts'
import { type Call, type EtcdClient, isGone, startingWith } from './client.ts'
import { type Entry, entryOf, isHolder, leaseOf, readEntry, readId } from './wait-queue.ts'

/** A wait queue as it was at a revision, and the base of tokens then. */
export interface View {
  revision: number
  queue: readonly Entry[]
  base: number | undefined
}

/** A base above this could bring tokens over 2^53 in the life of a cluster. */
const HIGHEST_BASE = Number.MAX_SAFE_INTEGER - 2 ** 50

/** etcd accepts 128 operations in one transaction. */
const READ_AT_ONCE = 100
const LIST_PAGE = 1000

export class Keyspace {
  #client: EtcdClient
  #prefix: string
  #base_key: Buffer
  #known_base: number | undefined

  constructor(client: EtcdClient, prefix: string) {
    this.#client = client
    this.#prefix = prefix
    this.#base_key = Buffer.from(`${prefix}base`)
  }

  queuePrefix(resource: string): string {
    // A slash in a name would make its queue a part of another's.
    return `${this.#prefix}lock/${resource.replace(/[%/]/g, encodeURIComponent)}/`
  }

  revokedPrefix(channel: string): string {
    return `${this.#prefix}robbed/${channel}/`
  }

  /** Assumes an empty queue before anything was read. A transaction based on it fails if that is wrong. */
  assumedView(): View {
    return { revision: 0, queue: [], base: this.#known_base }
  }

  async read(resource: string, call: Call): Promise<View> {
    const { revision, responses } = await this.#client.txn({ success: this.#viewOps(resource) }, call)
    return this.#viewOf(revision, responses)
  }

  /** Without base and revision, for reading only. */
  async readQueues(resources: readonly string[], call: Call): Promise<Entry[][]> {
    const queues: Entry[][] = []
    for (let from = 0; from < resources.length; from += READ_AT_ONCE) {
      const success = resources.slice(from, from + READ_AT_ONCE).map((resource) => this.#rangeOf(resource))
      const { responses } = await this.#client.txn({ success }, call)
      for (const one of responses) queues.push(one.response_range.kvs.flatMap((kv) => readEntry(kv) ?? []))
    }
    return queues
  }

  async resources(call: Call): Promise<string[]> {
    const { key, range_end } = startingWith(`${this.#prefix}lock/`)
    const found = new Set<string>()
    for (let from = key; ; ) {
      const page = { key: from, range_end, limit: LIST_PAGE, keys_only: true }
      const { responses } = await this.#client.txn({ success: [{ request_range: page }] }, call)
      const { kvs = [], more = false } = responses[0]?.response_range ?? {}
      for (const kv of kvs) {
        const [resource = ''] = kv.key.subarray(key.length).toString().split('/')
        found.add(decodeURIComponent(resource))
      }
      const last = kvs.at(-1)?.key
      if (!more || !last) return [...found]
      from = Buffer.concat([last, Buffer.of(0)])
    }
  }

  /**
   * The token, if the queue is unchanged; else the queue as it is, with or_enqueue including a slot for the request.
   * Rejects with isGone without a lock lease, or, with or_enqueue, without a slot lease.
   */
  async grant(
    { resource, id, above }: Attempt,
    key: string,
    view: View,
    or_enqueue: boolean,
    call: Call,
  ): Promise<number | View> {
    const { base, unchanged, raise } = this.#baseAbove(view, above)
    const own = view.queue.find((entry) => entry.key === key)
    // A waiter only requires its own key to be unchanged: its turn, once come, stays. A newcomer must be the last
    // key.
    const same: ICompare = own
      ? { key: Buffer.from(key), target: 'Mod', result: 'Equal', mod_revision: own.mod_revision }
      : {
          ...startingWith(this.queuePrefix(resource)),
          target: 'Create',
          result: 'Less',
          create_revision: view.revision + 1,
        }
    const lease = leaseOf(readId(id), 'lock')
    const put = { request_put: { key: Buffer.from(key), value: entryOf(id, base), lease } }
    const failure = or_enqueue ? [{ request_txn: this.#enqueueTxn(resource, id, key) }] : this.#viewOps(resource)
    const request = { compare: [same, unchanged], success: [put, ...raise], failure }
    const { succeeded, revision, responses } = await this.#client.txn(request, call)
    if (!succeeded) return this.#viewOf(revision, responses[0]?.response_txn?.responses ?? responses)
    this.#known_base = base
    return base + revision
  }

  /** Joins the end of the queue, unless the key is in it already. Rejects with isGone without a slot lease. */
  async enqueue({ resource, id }: Attempt, key: string, call: Call): Promise<View> {
    const { revision, responses } = await this.#client.txn(this.#enqueueTxn(resource, id, key), call)
    return this.#viewOf(revision, responses)
  }

  /** True when the key was there; else the queue, and whether the lock of this id was revoked. */
  async remove(
    resource: string,
    id: string,
    call: Call,
  ): Promise<true | { revoked: boolean; queue: readonly Entry[] }> {
    const { channel, uuid } = readId(id)
    const key = Buffer.from(this.queuePrefix(resource) + uuid)
    const revoked = { request_range: { key: Buffer.from(this.revokedPrefix(channel) + uuid) } }
    const there: ICompare = { key, target: 'Create', result: 'Greater', create_revision: 0 }
    const { succeeded, responses, revision } = await this.#client.txn(
      {
        compare: [there],
        success: [{ request_delete_range: { key } }],
        failure: [revoked, ...this.#viewOps(resource)],
      },
      call,
    )
    if (succeeded) return true
    const { queue } = this.#viewOf(revision, responses)
    return { revoked: (responses[0]?.response_range.kvs.length ?? 0) > 0, queue }
  }

  /** The raised token, below every later one; undefined when the queue has changed since the view. */
  async revoke(resource: string, view: View, above: number, call: Call): Promise<number | undefined> {
    const { base, unchanged, raise } = this.#baseAbove(view, above)
    // No key was added or granted since the view; removed keys make no difference.
    const mod_revision = view.revision + 1
    const same: ICompare = { ...startingWith(this.queuePrefix(resource)), target: 'Mod', result: 'Less', mod_revision }
    const success = view.queue.filter(isHolder).flatMap(({ key, lease, channel, uuid, waiter_id }) => [
      { request_delete_range: { key: Buffer.from(key) } },
      {
        request_put: {
          key: Buffer.from(this.revokedPrefix(channel) + uuid),
          value: Buffer.from(String(waiter_id)),
          lease,
        },
      },
    ])
    try {
      const request = { compare: [same, unchanged], success: [...success, ...raise] }
      const { succeeded, revision } = await this.#client.txn(request, call)
      return succeeded ? base + revision : undefined
    } catch (error) {
      // The lease of a holder expired in the meantime.
      if (isGone(error)) return undefined
      throw error
    }
  }

  #viewOps(resource: string): IRequestOp[] {
    return [this.#rangeOf(resource), { request_range: { key: this.#base_key } }]
  }

  #viewOf(revision: number, responses: IResponseOp[]): View {
    const [queue, base] = responses.slice(-2).map((one) => one.response_range.kvs)
    const value = base?.[0]?.value.toString()
    this.#known_base = value === undefined ? undefined : Number(value)
    return { revision, queue: (queue ?? []).flatMap((kv) => readEntry(kv) ?? []), base: this.#known_base }
  }

  #rangeOf(resource: string): IRequestOp {
    return {
      request_range: { ...startingWith(this.queuePrefix(resource)), sort_target: 'Create', sort_order: 'Ascend' },
    }
  }

  /**
   * The base of a grant, and the comparison that protects it: if it was raised in the meantime, the transaction fails.
   */
  #baseAbove(view: View, above: number): { base: number; unchanged: ICompare; raise: IRequestOp[] } {
    // The clock is read once in the life of a cluster: from then on only revisions are added.
    const base = Math.max(view.base ?? Date.now() * 1000, above)
    if (base > HIGHEST_BASE) throw new RangeError(`no token can be above ${above}`)
    const unchanged: ICompare =
      view.base === undefined
        ? { key: this.#base_key, target: 'Create', result: 'Equal', create_revision: 0 }
        : { key: this.#base_key, target: 'Value', result: 'Equal', value: Buffer.from(String(view.base)) }
    const raise = base === view.base ? [] : [{ request_put: { key: this.#base_key, value: Buffer.from(String(base)) } }]
    return { base, unchanged, raise }
  }

  #enqueueTxn(resource: string, id: string, key: string): ITxnRequest {
    const absent: ICompare = { key: Buffer.from(key), target: 'Create', result: 'Equal', create_revision: 0 }
    const lease = leaseOf(readId(id), 'slot')
    const put = { request_put: { key: Buffer.from(key), value: entryOf(id), lease } }
    return { compare: [absent], success: [put, ...this.#viewOps(resource)], failure: this.#viewOps(resource) }
  }
}
