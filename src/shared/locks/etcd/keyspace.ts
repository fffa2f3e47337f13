/**
 * The keys of the locks in etcd, and the transactions on these keys. Invariants: the transaction that grants a lock checks that
 * the key has its turn and that the key's etcd lease is alive. A token is a base, which only rises, plus the revision of the
 * granting transaction, so tokens rise over all resources together, whatever clocks do.
 *
 *   <prefix>lock/<resource>/<uuid>     a holder or waiter (wait-queue.ts); expires with its etcd lease
 *   <prefix>base                       the base of tokens: µs since 1970 when it was first written
 *   <prefix>robbed/<channel>/<uuid>    notifies a process that its lock was revoked; expires with the revoked lease
 */
import type { ICompare, IRequestOp, IResponseOp, ITxnRequest } from 'etcd3'
import type { Attempt } from '../core/backend.ts'
import { type Call, type EtcdClient, isGone, startingWith } from './client.ts'
import { type Entry, entryOf, isHolder, leaseOf, readEntry, readId } from './wait-queue.ts'

/** The state of a wait queue at one revision, and the base of tokens at that revision. */
export interface View {
  revision: number
  queue: readonly Entry[]
  base: number | undefined
}

/** Highest allowed base: with a higher base, tokens could exceed 2^53 in the life of a cluster. */
const HIGHEST_BASE = Number.MAX_SAFE_INTEGER - 2 ** 50

/** Maximum number of reads in one transaction: etcd accepts 128 operations. */
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
    // Escape slashes: a slash in a name would make the queue of this resource part of another resource's queue.
    return `${this.#prefix}lock/${resource.replace(/[%/]/g, encodeURIComponent)}/`
  }

  revokedPrefix(channel: string): string {
    return `${this.#prefix}robbed/${channel}/`
  }

  /**
   * Returns a view with an empty queue, for a first attempt without a read. If it is wrong, a transaction based on it fails.
   */
  assumedView(): View {
    return { revision: 0, queue: [], base: this.#known_base }
  }

  async read(resource: string, call: Call): Promise<View> {
    const { revision, responses } = await this.#client.txn({ success: this.#viewOps(resource) }, call)
    return this.#viewOf(revision, responses)
  }

  /** Reads several queues without base and revision: a transaction cannot be based on the result. */
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
   * Grants the lock and returns the token if the queue is unchanged since the view. Otherwise returns the present queue; with
   * or_enqueue the transaction has then added a slot for the request. Rejects with an error for which isGone is true if the
   * lock lease does not exist or, with or_enqueue, the slot lease does not.
   */
  async grant(
    { resource, id, above }: Attempt,
    key: string,
    view: View,
    or_enqueue: boolean,
    call: Call,
  ): Promise<number | View> {
    const { base, unchanged, raise } = this.#baseAbove(view, above)
    const mine = view.queue.find((entry) => entry.key === key)
    // A waiter only requires that its key is unchanged, because a waiter that has its turn keeps it. For a newcomer, no key may
    // have been added since the view.
    const same: ICompare = mine
      ? { key: Buffer.from(key), target: 'Mod', result: 'Equal', mod_revision: mine.mod_revision }
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

  /**
   * Adds the key to the end of the queue unless the queue contains it, and returns the queue. Rejects with an error for which
   * isGone is true if the slot lease does not exist.
   */
  async enqueue({ resource, id }: Attempt, key: string, call: Call): Promise<View> {
    const { revision, responses } = await this.#client.txn(this.#enqueueTxn(resource, id, key), call)
    return this.#viewOf(revision, responses)
  }

  /**
   * Deletes the key of this id. Returns true if the key existed; otherwise the queue, and whether the lock of this id was
   * revoked.
   */
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

  /**
   * Revokes the lock from all holders. Returns the raised token, which is below every later token; undefined if the queue has
   * changed since the view.
   */
  async revoke(resource: string, view: View, above: number, call: Call): Promise<number | undefined> {
    const { base, unchanged, raise } = this.#baseAbove(view, above)
    // Require that no key was added or granted since the view; removed keys make no difference.
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
      // The etcd lease of a holder has expired in the meantime.
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
   * Returns the base of a grant, and the comparison that protects it: if another process has raised the base in the meantime,
   * the transaction fails.
   */
  #baseAbove(view: View, above: number): { base: number; unchanged: ICompare; raise: IRequestOp[] } {
    // The clock counts only once in the life of a cluster, when the base is first written: from then on only revisions are added.
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
