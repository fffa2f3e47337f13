/** Ids of the sample data that ops/commands/seed.ts loads: every example in the OpenAPI document works with them. */
import { handleOf } from '../../shared/locks/core/lease-handle.ts'

export const PURCHASE_SAMPLES = {
  confirmed: '01935f5e-0000-7000-8000-000000000001',
  held: '01935f5e-0000-7000-8000-000000000002',
  cancellable: '01935f5e-0000-7000-8000-000000000003',
}

/** command → id of a booking on which the command succeeds */
export const BOOKING_SAMPLES = {
  complete: '01935f5e-0000-7000-8000-000000000011',
  accept: '01935f5e-0000-7000-8000-000000000012',
  decline: '01935f5e-0000-7000-8000-000000000013',
  cancel: '01935f5e-0000-7000-8000-000000000014',
}

/** Ids of the sample webhook endpoints. The endpoints are disabled, so that workers send nothing to them. */
export const WEBHOOK_SAMPLES = {
  endpoint: '01935f5e-0000-7000-8000-0000000000e1',
  removable: '01935f5e-0000-7000-8000-0000000000e2',
} as const

/** Returns a lease that the seed acquires for the examples. Its id is public, so it protects nothing. */
function sample(name: string) {
  const lock = { resource: `sample:${name}`, mode: 'exclusive', id: 'x 86400000 sample/0-sample sample' } as const
  const ttl_ms = 86_400_000
  return { ...lock, ttl_ms, lease_id: handleOf({ ...lock, ttl_ms, token: 1, since_ms: 1_795_255_200_000 }) }
}
export const SAMPLE_LEASES = { renewed: sample('renewed'), released: sample('released'), stuck: sample('stuck') }
