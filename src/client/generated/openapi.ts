/** Written by `npm run openapi` from openapi.json; not by hand. */

export interface paths {
    "/livez": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Liveness: event loop and progress */
        get: operations["livez"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/readyz": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Readiness: Postgres, Redis, a separate lock server, breaker states */
        get: operations["readyz"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/metrics": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Get the Prometheus metrics of this process */
        get: operations["metrics"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/resources/{type}/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Get a resource with its available, held and sold units */
        get: operations["getResource"];
        /**
         * Create or replace a resource
         * @description Creating needs no If-Match. Replacing requires the ETag of the replaced version in If-Match.
         */
        put: operations["putResource"];
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/resources": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List resources by reference */
        get: operations["listResources"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/resources/{type}/{id}/restock": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /** Add units, or remove unsold ones, through the ledger */
        post: operations["restockResource"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/resources/{type}/{id}/movements": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List the ledger of a resource, newest first */
        get: operations["listMovements"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/purchases": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List purchases, newest first */
        get: operations["listPurchases"];
        put?: never;
        /**
         * Create a purchase
         * @description The API queues the purchase and answers 202. With `Prefer: wait=N` it answers once the purchase is settled, or with 202 after N seconds.
         */
        post: operations["createPurchase"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/purchases/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Get a purchase */
        get: operations["getPurchase"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/purchases/{id}/confirm": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Confirm a held purchase
         * @description With `payment` the hold is paid now: by card it is confirmed once the charge is authorized, from a wallet in the same settlement. A declined card (402) leaves the hold unchanged, so another card can be tried. While a card charge is in progress, or money is reserved in a wallet, a second payment is refused (409 `payment_in_progress`, `payment_conflict`). Without `payment` the payment given at creation is used, which may be none. The command waits behind earlier purchases in the queue of the same resource. The API answers once the command is settled, or with 202 after 10 seconds; `Prefer: wait=N` makes this N seconds.
         */
        post: operations["confirmPurchase"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/purchases/{id}/cancel": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Cancel a purchase
         * @description For a queued or held purchase. Takes no body. The command waits behind earlier purchases in the queue of the same resource. The API answers once the command is settled, or with 202 after 10 seconds; `Prefer: wait=N` makes this N seconds.
         */
        post: operations["cancelPurchase"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/purchases/{id}/refund": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Refund a purchase
         * @description Refunds a confirmed purchase in full; `payment.refunds` shows when the money has moved. Takes no body. The command waits behind earlier purchases in the queue of the same resource. The API answers once the command is settled, or with 202 after 10 seconds; `Prefer: wait=N` makes this N seconds.
         */
        post: operations["refundPurchase"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List bookings, newest first */
        get: operations["listBookings"];
        put?: never;
        /**
         * Book a stay or request a ride
         * @description A stay is booked from `from` to `to`. With `hold_seconds` the stay is only held until it is accepted; if it is paid by card, it is held until the charge ends. A ride occupies its driver from now until the ride ends; a ride that is not accepted in time expires. The API queues the booking and answers 202. With `Prefer: wait=N` the API answers once the booking is settled, or with 202 after N seconds.
         */
        post: operations["createBooking"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Get a booking */
        get: operations["getBooking"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings/{id}/accept": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Accept a requested ride or a held stay
         * @description With `payment` a held stay is paid now, as a held purchase is by its confirm. A stay whose end has passed cannot be accepted (409 `too_late`). The command waits behind earlier bookings in the queue of the same resource. The API answers once the command is settled, or with 202 after 10 seconds; `Prefer: wait=N` makes this N seconds.
         */
        post: operations["acceptBooking"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings/{id}/decline": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Decline a requested booking
         * @description Takes no body. The command waits behind earlier bookings in the queue of the same resource. The API answers once the command is settled, or with 202 after 10 seconds; `Prefer: wait=N` makes this N seconds.
         */
        post: operations["declineBooking"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings/{id}/cancel": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Cancel a booking
         * @description An accepted stay whose end has passed cannot be cancelled (409 `too_late`). Takes no body. The command waits behind earlier bookings in the queue of the same resource. The API answers once the command is settled, or with 202 after 10 seconds; `Prefer: wait=N` makes this N seconds.
         */
        post: operations["cancelBooking"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings/{id}/complete": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Complete an accepted ride or stay
         * @description A stay can be completed once it has begun (409 `too_early` before), a ride at any time. Takes no body. The command waits behind earlier bookings in the queue of the same resource. The API answers once the command is settled, or with 202 after 10 seconds; `Prefer: wait=N` makes this N seconds.
         */
        post: operations["completeBooking"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/purchases/{id}/history": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get the history of a purchase
         * @description What has happened to the purchase, in order, and what it waits for. `by` and `fencing_token` name the process that settled it and the lease under which it did; rows that an older version settled have no `by`. Deliveries to webhook endpoints are kept as long as events.
         */
        get: operations["getPurchaseHistory"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings/{id}/history": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get the history of a booking
         * @description What has happened to the booking, in order, and what it waits for. `by` and `fencing_token` name the process that settled it and the lease under which it did; rows that an older version settled have no `by`. Deliveries to webhook endpoints are kept as long as events.
         */
        get: operations["getBookingHistory"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/resources/{type}/{id}/availability": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get the free ranges of a calendar
         * @description The window is at most 366 days. Requested and accepted bookings occupy their time. Past ranges are left out; a range that has begun is returned whole, because a stay may begin in the past.
         */
        get: operations["getAvailability"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/events": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Stream changes of purchases, bookings and stock
         * @description Server-sent events (`text/event-stream`), without end unless `limit` is given. Send the last `id` as Last-Event-ID to resume without a gap; an EventSource does so by itself. `data` is `{id, change, type, resource, sequence, timestamp, data}`, as in a webhook; `sequence` numbers the events of a resource without gaps. A purchase of several resources is one event for each of them, with the same `change`.
         */
        get: operations["streamEvents"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhook-endpoints": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List all webhook endpoints, oldest first */
        get: operations["listWebhookEndpoints"];
        put?: never;
        /**
         * Create a webhook endpoint
         * @description The endpoint receives events from now on, signed as in Standard Webhooks, at least once, in order of `sequence` per resource.
         */
        post: operations["createWebhookEndpoint"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhook-endpoints/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Get a webhook endpoint */
        get: operations["getWebhookEndpoint"];
        put?: never;
        post?: never;
        /** Delete a webhook endpoint */
        delete: operations["deleteWebhookEndpoint"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhook-endpoints/{id}/rotate": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /** Rotate the secret of an endpoint */
        post: operations["rotateWebhookSecret"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhook-endpoints/{id}/enable": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Re-enable an endpoint
         * @description Deliveries continue at once, after the last delivered event.
         */
        post: operations["enableWebhookEndpoint"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhook-endpoints/{id}/deliveries": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** List delivery attempts, newest first */
        get: operations["listWebhookDeliveries"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhook-endpoints/{id}/replay": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Replay the events of a resource
         * @description Delivers this event and all later events of the resource again, in order; events of types that the endpoint does not receive are left out.
         */
        post: operations["replayWebhooks"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/leases": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Acquire a lease
         * @description The lease expires `ttl_ms` after its last heartbeat (PUT). Store the fencing token with every write under the lease, so that the database can refuse a holder whose lease has expired. Closing the connection ends the wait.
         */
        post: operations["acquireLease"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/leases/{lease_id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        /**
         * Renew a lease (heartbeat)
         * @description The lease then expires `ttl_ms` from now. Send a heartbeat every third of the TTL, so that a failed one can be repeated.
         */
        put: operations["renewLease"];
        post?: never;
        /**
         * Release a lease
         * @description The first waiter acquires the lock.
         */
        delete: operations["releaseLease"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/locks": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List locks with their holders and waiters
         * @description Locks held for less than 500 ms may be missing; the route of a single lock is exact.
         */
        get: operations["listLocks"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/locks/stats": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get lock statistics of the whole fleet
         * @description Summed over all API and worker processes, which report once a second. Quantiles come from buckets whose bounds grow by the factor 2^(1/4): a value is never too low and at most 19 % too high.
         */
        get: operations["getLockStats"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/locks/{resource}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get a lock with its holders and waiters
         * @description Both lists are empty when the lock is free.
         */
        get: operations["getLock"];
        put?: never;
        post?: never;
        /**
         * Force-release a lock (admin)
         * @description The holders are notified at once, the first waiter acquires the lock, and writes with the old tokens are refused from now on. The fencing token is raised even if the lock is free. The API records each forced release in the table forced_releases.
         */
        delete: operations["forceReleaseLock"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/dashboard": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get the dashboard: what is wrong, processes, stock, queues, locks, throughput, invariants
         * @description As JSON, at most a second old; `condition` says the worst that is wrong in one sentence. With `Accept: text/event-stream` a stream: first the event `samples` with the throughput of the last minutes, then about once a second the event `snapshot` with this JSON. A slow client gets fewer snapshots.
         */
        get: operations["getDashboard"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/dashboard/history": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get the fleet's figures of the last day
         * @description Sampled every ten seconds, whether a dashboard is open or not, and kept for a day. Longer ranges have longer steps: a step has the average throughput and median wait, and the highest of the other figures, and is as bad as its worst sample.
         */
        get: operations["getDashboardHistory"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/dashboard/search": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Find a purchase, a booking, a customer or a resource
         * @description By the whole id of a purchase or booking, by the whole id of a charge (ours or the provider’s), by the whole name of a customer, or by the beginning of a resource’s `type:id` or of its id. Exact matches come first.
         */
        get: operations["searchDashboard"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/dashboard/resources/{type}/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get a resource with its queue, lock, stock over time, ledger, purchases and bookings
         * @description A part that cannot be read within its time limit is null; 503 when the resource itself cannot be read.
         */
        get: operations["getDashboardResource"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
}
export interface components {
    schemas: {
        Problem: {
            type: string;
            title: string;
            status: number;
            detail: string;
            instance: string;
            /** @description Stable and machine-readable. */
            code: string;
            /** @description The same request may succeed later. */
            retryable: boolean;
            errors?: {
                field: string;
                detail: string;
            }[];
            /** @description Seconds; also in the Retry-After header. */
            retry_after?: number;
        } & {
            [key: string]: unknown;
        };
        Resource: {
            /** @description `type:id` */
            resource: string;
            type: string;
            id: string;
            name: string;
            /** @enum {unknown} */
            kind: "units" | "calendar";
            total: number;
            available: number;
            held: number;
            sold: number;
            price: {
                amount: number;
                currency: string;
            };
            /** @description null: no limit */
            max_per_customer: number | null;
            /** @description Also the ETag */
            version: number;
            /** Format: date-time */
            created_at: string;
            /** Format: date-time */
            updated_at: string;
        };
        Purchase: {
            /** Format: uuid */
            id: string;
            /** @description Position in its queue: first come, first served */
            seq: number;
            /** @enum {unknown} */
            status: "queued" | "held" | "confirmed" | "rejected" | "failed" | "cancelled" | "expired" | "refunded";
            /** @description Why the purchase was rejected, failed or cancelled */
            reason: string | null;
            customer: string;
            lines: {
                resource: string;
                units: number;
            }[];
            /** @description Minor units; null until the purchase is settled */
            amount: number | null;
            currency: string | null;
            payment: {
                method: string;
                account?: string;
                charge?: {
                    /** @enum {unknown} */
                    status: "pending" | "authorized" | "captured" | "declined" | "unavailable" | "released" | "authorization_lost";
                    /** @description Minor units */
                    amount: number;
                    currency: string;
                    /** @description The provider’s code: `insufficient_funds`, `balance_insufficient` … */
                    reason: string | null;
                } | null;
                refunds?: {
                    /** Format: uuid */
                    id: string;
                    /** @enum {unknown} */
                    status: "pending" | "succeeded" | "failed" | "canceled";
                    /** @description Minor units */
                    amount: number;
                    /** @description The provider’s code: `insufficient_funds`, `balance_insufficient` … */
                    reason: string | null;
                    /** @description The refund was made at the provider, not by a command of this API */
                    at_provider: boolean;
                    /** @description Attempts at the provider; a failed refund of this API is retried */
                    attempts: number;
                    /** Format: date-time */
                    created_at: string;
                }[];
                dispute?: {
                    /** @enum {unknown} */
                    status: "open" | "won" | "lost";
                    /** @description Minor units */
                    amount: number;
                    /** @description The provider’s code: `insufficient_funds`, `balance_insufficient` … */
                    reason: string | null;
                } | null;
            };
            hold_seconds: number | null;
            /** Format: date-time */
            expires_at: string | null;
            /**
             * Format: uuid
             * @description The expired purchase whose late payment paid for this one
             */
            replaces: string | null;
            /**
             * Format: uuid
             * @description The purchase that the late payment of this one paid for
             */
            replaced_by: string | null;
            /** @description Fencing token of the lease under which the purchase was settled */
            fencing_token: number | null;
            /** Format: date-time */
            created_at: string;
            /** Format: date-time */
            settled_at: string | null;
        };
        Booking: {
            /** Format: uuid */
            id: string;
            /** @description Position in its queue: first come, first served */
            seq: number;
            /** @enum {unknown} */
            kind: "stay" | "ride";
            /** @enum {unknown} */
            status: "queued" | "requested" | "accepted" | "completed" | "rejected" | "declined" | "cancelled" | "expired";
            /** @description Why the booking was rejected or cancelled */
            reason: string | null;
            /** @description Bookings that this booking conflicts with, if it was rejected for a conflict */
            conflicting_ids: string[] | null;
            resource: string;
            customer: string;
            /** Format: date-time */
            from: string;
            /**
             * Format: date-time
             * @description Exclusive; null while a ride has no end
             */
            to: string | null;
            pickup: {
                lat: number;
                lng: number;
            } | null;
            /** @description Price × days begun by the local clock, in minor units; null until the booking is settled */
            amount: number | null;
            currency: string | null;
            payment: {
                method: string;
                account?: string;
                charge?: {
                    /** @enum {unknown} */
                    status: "pending" | "authorized" | "captured" | "declined" | "unavailable" | "released" | "authorization_lost";
                    /** @description Minor units */
                    amount: number;
                    currency: string;
                    /** @description The provider’s code: `insufficient_funds`, `balance_insufficient` … */
                    reason: string | null;
                } | null;
                refunds?: {
                    /** Format: uuid */
                    id: string;
                    /** @enum {unknown} */
                    status: "pending" | "succeeded" | "failed" | "canceled";
                    /** @description Minor units */
                    amount: number;
                    /** @description The provider’s code: `insufficient_funds`, `balance_insufficient` … */
                    reason: string | null;
                    /** @description The refund was made at the provider, not by a command of this API */
                    at_provider: boolean;
                    /** @description Attempts at the provider; a failed refund of this API is retried */
                    attempts: number;
                    /** Format: date-time */
                    created_at: string;
                }[];
                dispute?: {
                    /** @enum {unknown} */
                    status: "open" | "won" | "lost";
                    /** @description Minor units */
                    amount: number;
                    /** @description The provider’s code: `insufficient_funds`, `balance_insufficient` … */
                    reason: string | null;
                } | null;
            };
            hold_seconds: number | null;
            /** Format: date-time */
            expires_at: string | null;
            /**
             * Format: uuid
             * @description The expired booking whose late payment paid for this one
             */
            replaces: string | null;
            /**
             * Format: uuid
             * @description The booking that the late payment of this one paid for
             */
            replaced_by: string | null;
            /** @description Fencing token of the lease under which the booking was settled */
            fencing_token: number | null;
            /** Format: date-time */
            created_at: string;
            /** Format: date-time */
            settled_at: string | null;
        };
        History: {
            /** @description In order; at most the newest 500 commands, charges and deliveries */
            history: {
                /** Format: date-time */
                at: string;
                /** @enum {unknown} */
                what: "queued" | "held" | "confirmed" | "rejected" | "failed" | "cancelled" | "expired" | "refunded" | "requested" | "accepted" | "completed" | "declined" | "replaced" | "command_received" | "command_done" | "command_rejected" | "charge_started" | "charge_authorized" | "charge_captured" | "charge_declined" | "charge_unavailable" | "charge_released" | "authorization_lost" | "refund_requested" | "refund_succeeded" | "refund_failed" | "refund_canceled" | "dispute_opened" | "dispute_won" | "dispute_lost" | "event_delivered" | "event_delivery_failed";
                /** @description host:pid of the process that settled it */
                by?: string;
                /** @description Fencing token of the lease under which it was settled */
                fencing_token?: number;
                detail?: {
                    /** @description The resource in whose queue it waited */
                    queue?: string;
                    seq?: number;
                    /** @description Entries before it in its queue, at most 10000 */
                    ahead?: number;
                    /**
                     * @description There are more than 10000
                     * @enum {boolean}
                     */
                    ahead_capped?: true;
                    /**
                     * Format: date-time
                     * @description When the hold ends
                     */
                    until?: string;
                    /** @description Why; for a charge or refund, the provider’s code */
                    reason?: string;
                    resource?: string;
                    /** @description Units that there were when it was rejected */
                    available?: number;
                    max_per_customer?: number;
                    conflicting_ids?: string[];
                    /** @description Its entries in the ledger */
                    movements?: {
                        resource: string;
                        /** @enum {unknown} */
                        reason: "hold" | "release" | "sale" | "refund";
                        /** @description Change of the available units */
                        delta: number;
                        fencing_token: number | null;
                    }[];
                    /** Format: uuid */
                    replaces?: string;
                    /** Format: uuid */
                    replaced_by?: string;
                    /** @description `confirm`, `cancel`, `refund`, `accept` … */
                    command?: string;
                    /** Format: uuid */
                    command_id?: string;
                    /** @description The status in which the command found the row */
                    status?: string;
                    /** @description Minor units */
                    amount?: number;
                    currency?: string;
                    /** @description The refund was made at the provider, not by a command */
                    at_provider?: boolean;
                    /** @description Id of the event */
                    event?: string;
                    /** @description Type of the event */
                    type?: string;
                    /**
                     * Format: uuid
                     * @description The webhook endpoint
                     */
                    endpoint?: string;
                    attempts?: number;
                    /** @description Answer of the endpoint; null: none */
                    http_status?: number | null;
                };
            }[];
            waiting_for: {
                /**
                 * @description `settlement`: a worker decides the queued row. `command`: a worker executes the command. `charge`, `refund`: the provider answers. `hold`: the hold is confirmed or accepted, or ends.
                 * @enum {unknown}
                 */
                what: "settlement" | "command" | "charge" | "refund" | "hold";
                /** @description With settlement and command: the resource in whose queue it waits */
                queue?: string;
                /** @description Entries before it in its queue, at most 10000 */
                ahead?: number;
                /**
                 * @description There are more than 10000
                 * @enum {boolean}
                 */
                ahead_capped?: true;
                head?: {
                    /** @enum {unknown} */
                    kind: "purchase" | "booking";
                    /** Format: uuid */
                    id: string;
                    /** @description A command on that purchase or booking; null: the row itself */
                    command: string | null;
                    /** Format: date-time */
                    since: string;
                } | null;
                /** @description Holder of the lease of the queue; null: the lock is free; absent: the lock server did not answer */
                holder?: {
                    /** @description host:pid and job, or the owner of a lease over HTTP */
                    owner: string;
                    fencing_token: number;
                } | null;
                command?: {
                    /** Format: uuid */
                    id: string;
                    action: string;
                    /** Format: date-time */
                    since: string;
                };
                /** @enum {unknown} */
                provider?: "sandbox" | "stripe";
                /** Format: date-time */
                next_attempt_at?: string;
                /**
                 * Format: date-time
                 * @description When the hold ends
                 */
                until?: string;
            } | null;
        };
        WebhookEndpoint: {
            /** Format: uuid */
            id: string;
            url: string;
            events: string[] | null;
            resource: string | null;
            /** @description Why deliveries have stopped; null: enabled */
            disabled: string | null;
            /**
             * Format: date-time
             * @description Until this time deliveries are also signed with the previous secret
             */
            old_secret_until: string | null;
            /** @description Events not delivered yet */
            behind: number;
            /**
             * Format: date-time
             * @description First failure of the event that has failed for longest
             */
            failing_since: string | null;
            /** Format: date-time */
            created_at: string;
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
export interface operations {
    livez: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Alive */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** @enum {unknown} */
                        status: "ok" | "stuck";
                        detail?: string;
                        event_loop_p99_ms: number;
                    };
                };
            };
        };
    };
    readyz: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Ready */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** @enum {unknown} */
                        status: "ready" | "not_ready" | "stopping";
                        checks: {
                            [key: string]: {
                                /** @enum {unknown} */
                                status: "up" | "down";
                                detail?: string;
                            };
                        };
                        breakers: {
                            [key: string]: "closed" | "half_open" | "open";
                        };
                    };
                };
            };
        };
    };
    metrics: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Prometheus text format */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "text/plain": string;
                };
            };
        };
    };
    getResource: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                type: string;
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The resource */
            200: {
                headers: {
                    /** @description The version, for If-Match */
                    etag?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Resource"];
                };
            };
        };
    };
    putResource: {
        parameters: {
            query?: never;
            header?: {
                "if-match"?: string;
            };
            path: {
                type: string;
                id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    /** Format: plain-text */
                    name: string;
                    /** @enum {string} */
                    kind: "units";
                    total: number;
                    price: {
                        /** @description In minor units: 99900 is 999.00 */
                        amount: number;
                        /** @description A currency of ISO 4217 with a minor unit. It cannot change once the ledger has an entry */
                        currency: string;
                    };
                    /** @description Maximum number of units that one customer may have, held units included */
                    max_per_customer?: number;
                } | {
                    /** Format: plain-text */
                    name: string;
                    /** @enum {string} */
                    kind: "calendar";
                    price?: {
                        /** @description In minor units: 99900 is 999.00 */
                        amount: number;
                        /** @description A currency of ISO 4217 with a minor unit. It cannot change once the ledger has an entry */
                        currency: string;
                    };
                };
            };
        };
        responses: {
            /** @description Replaced */
            200: {
                headers: {
                    /** @description The version, for If-Match */
                    etag?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Resource"];
                };
            };
            /** @description Created */
            201: {
                headers: {
                    /** @description The version, for If-Match */
                    etag?: string;
                    /** @description Path of the created row */
                    location?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Resource"];
                };
            };
        };
    };
    listResources: {
        parameters: {
            query?: {
                type?: string;
                limit?: number;
                /** @description next_cursor of the previous page */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description One page */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: components["schemas"]["Resource"][];
                        next_cursor: string | null;
                    };
                };
            };
        };
    };
    restockResource: {
        parameters: {
            query?: never;
            header?: {
                "idempotency-key"?: string;
            };
            path: {
                type: string;
                id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    delta: number;
                    /** Format: plain-text */
                    reason: string;
                };
            };
        };
        responses: {
            /** @description The resource with its new stock */
            200: {
                headers: {
                    /** @description The version, for If-Match */
                    etag?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Resource"];
                };
            };
        };
    };
    listMovements: {
        parameters: {
            query?: {
                limit?: number;
                /** @description next_cursor of the previous page */
                cursor?: string;
            };
            header?: never;
            path: {
                type: string;
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description One page */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: {
                            id: number;
                            resource: string;
                            purchase: string | null;
                            booking: string | null;
                            delta: number;
                            reason: string;
                            fencing_token: number | null;
                            /** Format: date-time */
                            created_at: string;
                        }[];
                        next_cursor: string | null;
                    };
                };
            };
        };
    };
    listPurchases: {
        parameters: {
            query?: {
                /** @description Compared in Unicode NFC; no control or invisible characters, no leading or trailing white space */
                customer?: string;
                /** @description `type:id` */
                resource?: string;
                status?: "queued" | "held" | "confirmed" | "rejected" | "failed" | "cancelled" | "expired" | "refunded";
                limit?: number;
                /** @description next_cursor of the previous page */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description One page */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: components["schemas"]["Purchase"][];
                        next_cursor: string | null;
                    };
                };
            };
        };
    };
    createPurchase: {
        parameters: {
            query?: never;
            header?: {
                /** @description wait=N: respond once the purchase, booking or command is settled, after at most N seconds (N ≤ 30) */
                prefer?: string;
                /** @description A repeated request with the same key and body returns the row of the first request */
                "idempotency-key"?: string;
            };
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    /**
                     * Format: identifier
                     * @description Compared in Unicode NFC; no control or invisible characters, no leading or trailing white space
                     */
                    customer: string;
                    lines: {
                        /** @description `type:id` */
                        resource: string;
                        units: number;
                    }[];
                    payment?: {
                        /** @enum {string} */
                        method: "none";
                    } | {
                        /** @enum {string} */
                        method: "card";
                        token: string;
                    } | {
                        /** @enum {string} */
                        method: "wallet";
                        account: string;
                    };
                    hold_seconds?: number;
                };
            };
        };
        responses: {
            /** @description Settled: confirmed or held */
            201: {
                headers: {
                    /** @description Path of the created row */
                    location?: string;
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
            /** @description Queued */
            202: {
                headers: {
                    /** @description Path of the created row */
                    location?: string;
                    /** @description Seconds after which to retry or poll again */
                    "retry-after"?: number;
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
        };
    };
    getPurchase: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The purchase */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
        };
    };
    confirmPurchase: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description A repeated request with the same key and body returns the row of the first request */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": {
                    payment?: {
                        /** @enum {string} */
                        method: "none";
                    } | {
                        /** @enum {string} */
                        method: "card";
                        token: string;
                    } | {
                        /** @enum {string} */
                        method: "wallet";
                        account: string;
                    };
                };
            };
        };
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
            /** @description Queued */
            202: {
                headers: {
                    /** @description Seconds after which to retry or poll again */
                    "retry-after"?: number;
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
        };
    };
    cancelPurchase: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description A repeated request with the same key and body returns the row of the first request */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
            /** @description Queued */
            202: {
                headers: {
                    /** @description Seconds after which to retry or poll again */
                    "retry-after"?: number;
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
        };
    };
    refundPurchase: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description A repeated request with the same key and body returns the row of the first request */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
            /** @description Queued */
            202: {
                headers: {
                    /** @description Seconds after which to retry or poll again */
                    "retry-after"?: number;
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
        };
    };
    listBookings: {
        parameters: {
            query?: {
                /** @description `type:id` */
                resource?: string;
                /** @description Compared in Unicode NFC; no control or invisible characters, no leading or trailing white space */
                customer?: string;
                status?: "queued" | "requested" | "accepted" | "completed" | "rejected" | "declined" | "cancelled" | "expired";
                limit?: number;
                /** @description next_cursor of the previous page */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description One page */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: components["schemas"]["Booking"][];
                        next_cursor: string | null;
                    };
                };
            };
        };
    };
    createBooking: {
        parameters: {
            query?: never;
            header?: {
                /** @description wait=N: respond once the purchase, booking or command is settled, after at most N seconds (N ≤ 30) */
                prefer?: string;
                /** @description A repeated request with the same key and body returns the row of the first request */
                "idempotency-key"?: string;
            };
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    /** @description `type:id` */
                    resource: string;
                    /**
                     * Format: identifier
                     * @description Compared in Unicode NFC; no control or invisible characters, no leading or trailing white space
                     */
                    customer: string;
                    /** @description ISO 8601 with an offset, or a date alone, which means its midnight in UTC */
                    from: string;
                    /** @description ISO 8601 with an offset, or a date alone, which means its midnight in UTC */
                    to: string;
                    payment?: {
                        /** @enum {string} */
                        method: "none";
                    } | {
                        /** @enum {string} */
                        method: "card";
                        token: string;
                    } | {
                        /** @enum {string} */
                        method: "wallet";
                        account: string;
                    };
                    /** @description Holds the time for at most this many seconds, until the booking is accepted */
                    hold_seconds?: number;
                } | {
                    driver_id: string | number;
                    /**
                     * Format: identifier
                     * @description Compared in Unicode NFC; no control or invisible characters, no leading or trailing white space
                     */
                    rider_id: string | number;
                    pickup_lat: number;
                    pickup_lng: number;
                };
            };
        };
        responses: {
            /** @description Settled: accepted or requested */
            201: {
                headers: {
                    /** @description Path of the created row */
                    location?: string;
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
            /** @description Queued */
            202: {
                headers: {
                    /** @description Path of the created row */
                    location?: string;
                    /** @description Seconds after which to retry or poll again */
                    "retry-after"?: number;
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
        };
    };
    getBooking: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The booking */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
        };
    };
    acceptBooking: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description A repeated request with the same key and body returns the row of the first request */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": {
                    payment?: {
                        /** @enum {string} */
                        method: "none";
                    } | {
                        /** @enum {string} */
                        method: "card";
                        token: string;
                    } | {
                        /** @enum {string} */
                        method: "wallet";
                        account: string;
                    };
                };
            };
        };
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
            /** @description Queued */
            202: {
                headers: {
                    /** @description Seconds after which to retry or poll again */
                    "retry-after"?: number;
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
        };
    };
    declineBooking: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description A repeated request with the same key and body returns the row of the first request */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
            /** @description Queued */
            202: {
                headers: {
                    /** @description Seconds after which to retry or poll again */
                    "retry-after"?: number;
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
        };
    };
    cancelBooking: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description A repeated request with the same key and body returns the row of the first request */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
            /** @description Queued */
            202: {
                headers: {
                    /** @description Seconds after which to retry or poll again */
                    "retry-after"?: number;
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
        };
    };
    completeBooking: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description A repeated request with the same key and body returns the row of the first request */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
            /** @description Queued */
            202: {
                headers: {
                    /** @description Seconds after which to retry or poll again */
                    "retry-after"?: number;
                    /** @description The wait that the server applied */
                    "preference-applied"?: string;
                    /** @description true: the answer to an earlier request with this key */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
        };
    };
    getPurchaseHistory: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The history */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["History"];
                };
            };
        };
    };
    getBookingHistory: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The history */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["History"];
                };
            };
        };
    };
    getAvailability: {
        parameters: {
            query: {
                /** @description ISO 8601 with an offset, or a date alone, which means its midnight in UTC */
                from: string;
                /** @description ISO 8601 with an offset, or a date alone, which means its midnight in UTC */
                to: string;
            };
            header?: never;
            path: {
                type: string;
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The free ranges */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        resource: string;
                        /** Format: date-time */
                        from: string;
                        /** Format: date-time */
                        to: string;
                        /** @description Half-open ranges, in order */
                        free: {
                            /** Format: date-time */
                            from: string;
                            /** Format: date-time */
                            to: string;
                        }[];
                    };
                };
            };
        };
    };
    streamEvents: {
        parameters: {
            query?: {
                /** @description Only events of this resource */
                resource?: string;
                type?: "purchase.held" | "purchase.confirmed" | "purchase.rejected" | "purchase.failed" | "purchase.cancelled" | "purchase.expired" | "purchase.refunded" | "booking.requested" | "booking.accepted" | "booking.completed" | "booking.rejected" | "booking.declined" | "booking.cancelled" | "booking.expired" | "payment.refunded" | "payment.refund_failed" | "payment.authorization_lost" | "payment.dispute_opened" | "payment.dispute_won" | "payment.dispute_lost" | "resource.restocked";
                /** @description Same as Last-Event-ID, which takes precedence */
                after?: string;
                /** @description The stream ends after this many events */
                limit?: number;
            };
            header?: {
                "last-event-id"?: string;
            };
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The stream of events */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "text/event-stream": string;
                };
            };
        };
    };
    listWebhookEndpoints: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description All endpoints */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: components["schemas"]["WebhookEndpoint"][];
                    };
                };
            };
        };
    };
    createWebhookEndpoint: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    /** @description https, without user, password or fragment */
                    url: string;
                    /** @description Event types; absent: all */
                    events?: ("purchase.held" | "purchase.confirmed" | "purchase.rejected" | "purchase.failed" | "purchase.cancelled" | "purchase.expired" | "purchase.refunded" | "booking.requested" | "booking.accepted" | "booking.completed" | "booking.rejected" | "booking.declined" | "booking.cancelled" | "booking.expired" | "payment.refunded" | "payment.refund_failed" | "payment.authorization_lost" | "payment.dispute_opened" | "payment.dispute_won" | "payment.dispute_lost" | "resource.restocked")[];
                    /** @description Only events of this resource; absent: all */
                    resource?: string;
                };
            };
        };
        responses: {
            /** @description Created */
            201: {
                headers: {
                    /** @description Path of the created row */
                    location?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** Format: uuid */
                        id: string;
                        url: string;
                        events: string[] | null;
                        resource: string | null;
                        /** @description Why deliveries have stopped; null: enabled */
                        disabled: string | null;
                        /**
                         * Format: date-time
                         * @description Until this time deliveries are also signed with the previous secret
                         */
                        old_secret_until: string | null;
                        /** @description Events not delivered yet */
                        behind: number;
                        /**
                         * Format: date-time
                         * @description First failure of the event that has failed for longest
                         */
                        failing_since: string | null;
                        /** Format: date-time */
                        created_at: string;
                        /** @description Returned only here; `whsec_` and base64, as in Standard Webhooks */
                        secret: string;
                    };
                };
            };
        };
    };
    getWebhookEndpoint: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The endpoint */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookEndpoint"];
                };
            };
        };
    };
    deleteWebhookEndpoint: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The deleted endpoint */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookEndpoint"];
                };
            };
        };
    };
    rotateWebhookSecret: {
        parameters: {
            query?: {
                /** @description Seconds for which deliveries are also signed with the previous secret; choose 0 if that secret has leaked */
                overlap_s?: number;
            };
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The endpoint with its new secret */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** Format: uuid */
                        id: string;
                        url: string;
                        events: string[] | null;
                        resource: string | null;
                        /** @description Why deliveries have stopped; null: enabled */
                        disabled: string | null;
                        /**
                         * Format: date-time
                         * @description Until this time deliveries are also signed with the previous secret
                         */
                        old_secret_until: string | null;
                        /** @description Events not delivered yet */
                        behind: number;
                        /**
                         * Format: date-time
                         * @description First failure of the event that has failed for longest
                         */
                        failing_since: string | null;
                        /** Format: date-time */
                        created_at: string;
                        /** @description Returned only here; `whsec_` and base64, as in Standard Webhooks */
                        secret: string;
                    };
                };
            };
        };
    };
    enableWebhookEndpoint: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Enabled */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookEndpoint"];
                };
            };
        };
    };
    listWebhookDeliveries: {
        parameters: {
            query?: {
                resource?: string;
                limit?: number;
                /** @description next_cursor of the previous page */
                cursor?: string;
            };
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description One page */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: {
                            id: number;
                            /** @description Id of the event, sent as the header webhook-id */
                            event: string;
                            type: string;
                            resource: string;
                            sequence: number;
                            attempt: number;
                            /** @description HTTP status of the response; null: no response */
                            status: number | null;
                            error: string | null;
                            duration_ms: number;
                            /** Format: date-time */
                            created_at: string;
                        }[];
                        next_cursor: string | null;
                    };
                };
            };
        };
    };
    replayWebhooks: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    resource?: string;
                    sequence?: number;
                    /** @description Replay from the event of this delivery on; send it instead of resource and sequence */
                    delivery?: number;
                };
            };
        };
        responses: {
            /** @description Scheduled */
            202: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookEndpoint"];
                };
            };
        };
    };
    acquireLease: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    /** @description `type:id`: the name that all users of the lock agree on; it need not exist as a resource for sale */
                    resource: string;
                    /** @description The lease expires this long after its last heartbeat; choose twice the longest pause of its owner */
                    ttl_ms: number;
                    /** @description How long to wait in the wait queue; 0 (default): one attempt */
                    wait_ms?: number;
                    /**
                     * Format: identifier
                     * @description Name of the holder, shown to callers that find the lock busy: a host, a process, a job
                     */
                    owner: string;
                    /** @enum {unknown} */
                    mode: "exclusive" | "shared";
                } | {
                    /** @description `type:id`: the name that all users of the lock agree on; it need not exist as a resource for sale */
                    resource: string;
                    /** @description The lease expires this long after its last heartbeat; choose twice the longest pause of its owner */
                    ttl_ms: number;
                    /** @description How long to wait in the wait queue; 0 (default): one attempt */
                    wait_ms?: number;
                    /**
                     * Format: identifier
                     * @description Name of the holder, shown to callers that find the lock busy: a host, a process, a job
                     */
                    owner: string;
                    /** @enum {string} */
                    mode: "permit";
                    /** @description Most holders of a permit at once */
                    limit: number;
                };
            };
        };
        responses: {
            /** @description Acquired */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** @description A caller with this id can renew and release the lease: keep it secret */
                        lease_id: string;
                        resource: string;
                        /** @enum {unknown} */
                        mode: "exclusive" | "shared" | "permit";
                        /** @description Higher than every earlier token of the resource */
                        fencing_token: number;
                        /**
                         * Format: date-time
                         * @description When the lease expires unless it is renewed before; never later than the real expiry
                         */
                        expires_at: string;
                    };
                };
            };
        };
    };
    renewLease: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                lease_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Renewed */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** @description A caller with this id can renew and release the lease: keep it secret */
                        lease_id: string;
                        resource: string;
                        /** @enum {unknown} */
                        mode: "exclusive" | "shared" | "permit";
                        /** @description Higher than every earlier token of the resource */
                        fencing_token: number;
                        /**
                         * Format: date-time
                         * @description When the lease expires unless it is renewed before; never later than the real expiry
                         */
                        expires_at: string;
                    };
                };
            };
        };
    };
    releaseLease: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                lease_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Released */
            204: {
                headers: {
                    [name: string]: unknown;
                };
                content?: never;
            };
        };
    };
    listLocks: {
        parameters: {
            query?: {
                limit?: number;
                /** @description next_cursor of the previous page */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description One page */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: {
                            resource: string;
                            /** @description The last token that was granted, or that a forced release set; 0 when none is stored */
                            fencing_token: number;
                            holders: {
                                /** @description host:pid and job, or the owner of a lease over HTTP */
                                owner: string;
                                /** @enum {unknown} */
                                mode: "exclusive" | "shared" | "permit";
                                limit?: number;
                                fencing_token: number;
                                /** Format: date-time */
                                since: string;
                                /** @description Milliseconds until the lease expires, unless it is renewed */
                                ttl_left_ms: number;
                            }[];
                            /** @description The wait queue, in order */
                            waiters: {
                                owner: string;
                                /** @enum {unknown} */
                                mode: "exclusive" | "shared" | "permit";
                                limit?: number;
                                /** Format: date-time */
                                since: string;
                            }[];
                        }[];
                        next_cursor: string | null;
                    };
                };
            };
        };
    };
    getLockStats: {
        parameters: {
            query?: {
                hours?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The last hours, including the present one */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /**
                         * Format: date-time
                         * @description The full hour at which the figures begin
                         */
                        since: string;
                        acquisitions: number;
                        /** @description timeouts + aborted + unreachable */
                        failures: number;
                        /** @description Requests that found the lock still busy at the end of their wait */
                        timeouts: number;
                        /** @description Requests whose caller disconnected or stopped */
                        aborted: number;
                        /** @description Requests that the lock server did not answer */
                        unreachable: number;
                        /** @description Attempts that found the lock busy */
                        contentions: number;
                        /** @description Leases that ended before they were released */
                        lost: number;
                        /** @description Writes of superseded lock holders that Postgres refused */
                        fencing_rejections: number;
                        /** @description acquisitions / (acquisitions + failures) */
                        success_rate: number | null;
                        wait_ms: {
                            p50: number | null;
                            p95: number | null;
                            p99: number | null;
                        };
                        hold_ms: {
                            p50: number | null;
                            p95: number | null;
                            p99: number | null;
                        };
                    };
                };
            };
        };
    };
    getLock: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description `type:id` */
                resource: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The lock */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        resource: string;
                        /** @description The last token that was granted, or that a forced release set; 0 when none is stored */
                        fencing_token: number;
                        holders: {
                            /** @description host:pid and job, or the owner of a lease over HTTP */
                            owner: string;
                            /** @enum {unknown} */
                            mode: "exclusive" | "shared" | "permit";
                            limit?: number;
                            fencing_token: number;
                            /** Format: date-time */
                            since: string;
                            /** @description Milliseconds until the lease expires, unless it is renewed */
                            ttl_left_ms: number;
                        }[];
                        /** @description The wait queue, in order */
                        waiters: {
                            owner: string;
                            /** @enum {unknown} */
                            mode: "exclusive" | "shared" | "permit";
                            limit?: number;
                            /** Format: date-time */
                            since: string;
                        }[];
                    };
                };
            };
        };
    };
    forceReleaseLock: {
        parameters: {
            query?: {
                /** @description Recorded with the release */
                reason?: string;
            };
            header?: never;
            path: {
                /** @description `type:id` */
                resource: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Released */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        resource: string;
                        /** @description Every later token is higher; writes with a lower one are refused */
                        fencing_token: number;
                        /** @description Empty when the lock was free */
                        revoked_holders: {
                            /** @description host:pid and job, or the owner of a lease over HTTP */
                            owner: string;
                            /** @enum {unknown} */
                            mode: "exclusive" | "shared" | "permit";
                            limit?: number;
                            fencing_token: number;
                            /** Format: date-time */
                            since: string;
                            /** @description Milliseconds until the lease expires, unless it is renewed */
                            ttl_left_ms: number;
                        }[];
                    };
                };
            };
        };
    };
    getDashboard: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Current snapshot */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** Format: date-time */
                        at: string;
                        /** @description The lab is enabled */
                        lab: boolean;
                        condition: {
                            /** @enum {unknown} */
                            level: "green" | "amber" | "red";
                            /** @description The worst finding, or that all systems work */
                            sentence: string;
                            /** Format: date-time */
                            since: string | null;
                            /** @description The worst first; at most 50 */
                            findings: {
                                /** @description Name of the rule; docs/dashboard.md lists the rules */
                                rule: string;
                                /** @enum {unknown} */
                                level: "amber" | "red";
                                sentence: string;
                                /** Format: date-time */
                                since: string | null;
                                /** @description The resource, process, endpoint, or server that it is about */
                                subject: string | null;
                            }[];
                        };
                        /** @description API and worker processes, with those that are missed; null when it could not be read */
                        processes: {
                            /** @description host:pid, as the owner of a lease begins */
                            id: string;
                            /** @enum {unknown} */
                            role: "api" | "worker";
                            host: string;
                            version: string;
                            /** Format: date-time */
                            started_at: string;
                            /**
                             * Format: date-time
                             * @description Time of its last report; it reports once a second
                             */
                            seen_at: string;
                            /** @description Delay of the event loop in the last second, 99th percentile */
                            event_loop_p99_ms: number;
                            /** @description Queues that it drains now; at most 20 */
                            queues: string[];
                            breakers: {
                                [key: string]: "closed" | "half_open" | "open";
                            };
                        }[] | null;
                        /** @description The first resources of each type, and those with a queue or a lease; null when they could not be read */
                        resources: components["schemas"]["Resource"][] | null;
                        /** @description The queues with the oldest rows; null when it could not be read */
                        queues: {
                            resource: string;
                            /** @description Queued purchases, bookings and commands, counted up to 10000 */
                            length: number;
                            /** @description The queue is longer than `length` */
                            more: boolean;
                            /** @description Age of the oldest row in the queue */
                            oldest_ms: number;
                            /** @description Holder of the lease of the queue; null when it is free, or held for less than 500 ms */
                            holder: {
                                owner: string;
                                fencing_token: number;
                            } | null;
                        }[] | null;
                        /** @description Number of further queues; at most 500 are read */
                        more_queues: number;
                        /** @description Locks with their holders and waiters; null when it could not be read */
                        locks: {
                            resource: string;
                            /** @description The last token that was granted, or that a forced release set; 0 when none is stored */
                            fencing_token: number;
                            holders: {
                                /** @description host:pid and job, or the owner of a lease over HTTP */
                                owner: string;
                                /** @enum {unknown} */
                                mode: "exclusive" | "shared" | "permit";
                                limit?: number;
                                fencing_token: number;
                                /** Format: date-time */
                                since: string;
                                /** @description Milliseconds until the lease expires, unless it is renewed */
                                ttl_left_ms: number;
                            }[];
                            /** @description The wait queue, in order */
                            waiters: {
                                owner: string;
                                /** @enum {unknown} */
                                mode: "exclusive" | "shared" | "permit";
                                limit?: number;
                                /** Format: date-time */
                                since: string;
                            }[];
                        }[] | null;
                        /** @description Number of further locks */
                        more_locks: number;
                        throughput: {
                            /** Format: date-time */
                            at: string;
                            /** @description Rows settled per second by the whole fleet since the previous sample; null while no stream is open */
                            per_second: number | null;
                            /** @description Time from request to settlement; null when no row was settled */
                            wait_p50_ms: number | null;
                            wait_p95_ms: number | null;
                            /** @description Log lines of level error, and responses with a 5xx status, of the whole fleet */
                            errors_per_minute: number | null;
                        };
                        /** @description Failed BullMQ jobs that are kept; null when it could not be read */
                        failed_jobs: {
                            queue: string;
                            count: number;
                        }[] | null;
                        /** @description The verifier's latest result for the quick invariants; null when it is missing or too old */
                        verification: {
                            /** Format: date-time */
                            at: string;
                            broken: {
                                invariant: string;
                                offenders: string[];
                            }[];
                        } | null;
                    };
                    "text/event-stream": string;
                };
            };
        };
    };
    getDashboardHistory: {
        parameters: {
            query?: {
                range?: "5m" | "1h" | "6h" | "24h";
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The samples, oldest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        range: string;
                        /** @description Seconds between two samples; a step without a sample is missing */
                        step_s: number;
                        samples: {
                            /**
                             * Format: date-time
                             * @description Begin of the step
                             */
                            at: string;
                            /** @description Rows settled per second by the whole fleet */
                            per_second: number | null;
                            /** @description Time from insert to settlement; null when no row was settled */
                            wait_p50_ms: number | null;
                            wait_p95_ms: number | null;
                            /** @description Queued purchases, bookings and commands */
                            queued: number | null;
                            /** @description Age of the oldest queued row in seconds; 0 when there is none */
                            oldest_s: number | null;
                            errors_per_minute: number | null;
                            /** @enum {unknown} */
                            level: "green" | "amber" | "red";
                            /** @description The condition's sentence */
                            sentence: string;
                        }[];
                    };
                };
            };
        };
    };
    searchDashboard: {
        parameters: {
            query: {
                /** @description The text to find; white space at either end is ignored, and no character is a wildcard */
                q: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description What was found; empty when nothing was */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** @description At most 20, best first */
                        results: {
                            /** @enum {unknown} */
                            kind: "purchase" | "booking" | "customer" | "resource";
                            /** @description The id of a purchase or booking, the `type:id` of a resource, or the customer */
                            id: string;
                            /** @description One line for people */
                            title: string;
                            /** @description The status of a purchase or booking */
                            status: string | null;
                            /**
                             * Format: date-time
                             * @description When it was created; for a customer, the newest row; else null
                             */
                            at: string | null;
                        }[];
                    };
                };
            };
        };
    };
    getDashboardResource: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                type: string;
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The resource */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        resource: components["schemas"]["Resource"];
                        /** @description The queue of the resource; null when it could not be read */
                        queue: {
                            /** @description Queued purchases, bookings and commands, counted up to 10000 */
                            length: number;
                            /** @description The queue is longer than `length` */
                            more: boolean;
                            /** @description Age of the oldest row in the queue; 0 when the queue is empty */
                            oldest_ms: number;
                            /** @description The row at the head of the queue; null when the queue is empty */
                            head: {
                                /**
                                 * Format: uuid
                                 * @description The purchase or booking that is settled next
                                 */
                                id: string;
                                /** @enum {unknown} */
                                kind: "purchase" | "booking";
                                /** @description The command on it that waits; null when the row itself waits */
                                command: string | null;
                                /** Format: date-time */
                                since: string;
                            } | null;
                        } | null;
                        /** @description The lock of the resource with its holders and waiters; null when it could not be read */
                        lock: {
                            resource: string;
                            /** @description The last token that was granted, or that a forced release set; 0 when none is stored */
                            fencing_token: number;
                            holders: {
                                /** @description host:pid and job, or the owner of a lease over HTTP */
                                owner: string;
                                /** @enum {unknown} */
                                mode: "exclusive" | "shared" | "permit";
                                limit?: number;
                                fencing_token: number;
                                /** Format: date-time */
                                since: string;
                                /** @description Milliseconds until the lease expires, unless it is renewed */
                                ttl_left_ms: number;
                            }[];
                            /** @description The wait queue, in order */
                            waiters: {
                                owner: string;
                                /** @enum {unknown} */
                                mode: "exclusive" | "shared" | "permit";
                                limit?: number;
                                /** Format: date-time */
                                since: string;
                            }[];
                        } | null;
                        /** @description Stock over time, oldest first: at most 200 points over the newest entries of the ledger, the last one as it is now; null when it could not be read */
                        stock: {
                            /** Format: date-time */
                            at: string;
                            available: number;
                            /** @description Overdue holds count as held until a worker has ended them */
                            held: number;
                            sold: number;
                        }[] | null;
                        /** @description The newest 20 entries of the ledger, newest first; null when it could not be read */
                        movements: {
                            id: number;
                            resource: string;
                            purchase: string | null;
                            booking: string | null;
                            delta: number;
                            reason: string;
                            fencing_token: number | null;
                            /** Format: date-time */
                            created_at: string;
                        }[] | null;
                        /** @description The newest 20 purchases in its queue, or that have moved its units, newest first; null when it could not be read */
                        purchases: {
                            /** Format: uuid */
                            id: string;
                            customer: string;
                            /** @description Units of this resource; of an account, the amount that it pays */
                            units: number;
                            /** @enum {unknown} */
                            status: "queued" | "held" | "confirmed" | "rejected" | "failed" | "cancelled" | "expired" | "refunded";
                            /**
                             * Format: date-time
                             * @description When it was created
                             */
                            at: string;
                        }[] | null;
                        /** @description Of a calendar: requested, accepted and completed bookings from 7 days ago to 60 days ahead, at most 500, in the order of their beginning; null when it could not be read */
                        bookings: {
                            /** Format: uuid */
                            id: string;
                            customer: string;
                            /** Format: date-time */
                            from: string;
                            /**
                             * Format: date-time
                             * @description Exclusive; null while a ride has no end
                             */
                            to: string | null;
                            /** @enum {unknown} */
                            status: "requested" | "accepted" | "completed";
                        }[] | null;
                    };
                };
            };
        };
    };
}

/** Operations that accept an Idempotency-Key. */
export const KEYED: ReadonlySet<string> = new Set([
  'POST /api/resources/{type}/{id}/restock',
  'POST /api/purchases',
  'POST /api/purchases/{id}/confirm',
  'POST /api/purchases/{id}/cancel',
  'POST /api/purchases/{id}/refund',
  'POST /api/bookings',
  'POST /api/bookings/{id}/accept',
  'POST /api/bookings/{id}/decline',
  'POST /api/bookings/{id}/cancel',
  'POST /api/bookings/{id}/complete',
])
