-- Constraints and triggers that drizzle-kit cannot express. They keep the invariants when every lock fails, and no code
-- path can skip them.

CREATE EXTENSION IF NOT EXISTS btree_gist;
--> statement-breakpoint
-- Never double-book: no two active bookings of one resource overlap.
ALTER TABLE bookings ADD CONSTRAINT bookings_no_overlap
  EXCLUDE USING gist (resource_id WITH =, period WITH &&) WHERE (status IN ('requested', 'accepted'));
--> statement-breakpoint
-- A hot row is updated twice in each batch: free space on its page lets those updates skip the indexes (HOT).
ALTER TABLE resources SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
--> statement-breakpoint
-- Each purchase is updated once or twice soon after its insert, and a queue is read through a partial index. Vacuum by
-- count, not by share, so that dead index entries of settled rows do not accumulate at the head of a long queue.
ALTER TABLE purchases SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
--> statement-breakpoint
CREATE FUNCTION reject_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%: % refused', TG_NAME, TG_OP USING ERRCODE = 'integrity_constraint_violation';
END $$;
--> statement-breakpoint
-- A status changes only along the MOVES of src/shared/domain/purchase.ts and booking.ts: every other change is refused.
-- A batch writes the last of several moves (a queued purchase may be held, confirmed and refunded in one batch), so a pair
-- is allowed when a path of moves leads from one to the other. From queued one leads to every status.
-- WHEN avoids the function call on the hot path.
CREATE TRIGGER purchases_terminal BEFORE UPDATE OF status ON purchases FOR EACH ROW
  WHEN (NEW.status IS DISTINCT FROM OLD.status AND NOT CASE OLD.status
    WHEN 'queued' THEN true
    WHEN 'held' THEN NEW.status IN ('confirmed', 'failed', 'cancelled', 'expired', 'refunded')
    WHEN 'confirmed' THEN NEW.status = 'refunded'
    ELSE false END)
  EXECUTE FUNCTION reject_change();
--> statement-breakpoint
CREATE TRIGGER bookings_terminal BEFORE UPDATE OF status ON bookings FOR EACH ROW
  WHEN (NEW.status IS DISTINCT FROM OLD.status AND NOT CASE OLD.status
    WHEN 'queued' THEN true
    WHEN 'requested' THEN NEW.status IN ('accepted', 'completed', 'rejected', 'declined', 'cancelled', 'expired')
    WHEN 'accepted' THEN NEW.status IN ('completed', 'cancelled')
    ELSE false END)
  EXECUTE FUNCTION reject_change();
--> statement-breakpoint
-- A fencing token only rises: a superseded lease holder cannot lower it to make its own writes pass.
CREATE TRIGGER resources_fencing_token BEFORE UPDATE OF fencing_token ON resources FOR EACH ROW
  WHEN (NEW.fencing_token < OLD.fencing_token)
  EXECUTE FUNCTION reject_change();
--> statement-breakpoint
-- The ledger is append-only.
CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE ON ledger_entries FOR EACH ROW
  EXECUTE FUNCTION reject_change();
--> statement-breakpoint
-- What a charge job needs to know of a purchase or booking. `open`: units are held, and the hold has not expired.
CREATE VIEW payable AS
  SELECT id, id AS purchase_id, NULL::uuid AS booking_id, queue, payment ->> 'token' AS token,
         status = 'held' AND expires_at > clock_timestamp() AS open
  FROM purchases
  UNION ALL
  SELECT id, NULL, id, resource_id, payment ->> 'token', status = 'requested' AND expires_at > clock_timestamp()
  FROM bookings;
--> statement-breakpoint
-- Outcomes never change, except where a bank changes them: a refund is returned, a lost dispute is won on appeal. Our own
-- refund that failed, or that found nothing left to refund, can be requested again.
CREATE TRIGGER charges_terminal BEFORE UPDATE OF status ON charges FOR EACH ROW
  WHEN (NEW.status IS DISTINCT FROM OLD.status
    AND (OLD.status IN ('captured', 'declined', 'unavailable', 'released', 'refunded', 'authorization_lost', 'lost', 'won') OR NEW.status IN ('pending', 'open'))
    AND NOT (OLD.kind = 'dispute' AND OLD.status = 'lost' AND NEW.status = 'won')
    AND NOT (OLD.kind = 'refund' AND OLD.status = 'refunded' AND NEW.status = 'failed')
    AND NOT (OLD.kind = 'refund' AND OLD.status IN ('failed', 'released') AND NEW.status = 'pending' AND NOT OLD.at_provider))
  EXECUTE FUNCTION reject_change();
--> statement-breakpoint
-- The sum of all refunds of a charge, ours and those made at the provider, never exceeds the charge. The lock on the
-- charge's row makes two concurrent refunds see each other.
CREATE FUNCTION check_refund_amount() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  charged bigint;
  given bigint;
BEGIN
  SELECT c.amount INTO charged FROM charges c
  WHERE (c.purchase_id = NEW.purchase_id OR c.booking_id = NEW.booking_id) AND c.kind = 'charge' AND c.currency = NEW.currency
  ORDER BY c.n DESC LIMIT 1 FOR NO KEY UPDATE;
  SELECT coalesce(sum(r.amount), 0) INTO given FROM charges r
  WHERE (r.purchase_id = NEW.purchase_id OR r.booking_id = NEW.booking_id) AND r.kind = 'refund' AND r.id <> NEW.id
    AND r.status IN ('pending', 'refunded');
  IF charged IS NULL OR given + NEW.amount > charged THEN
    RAISE EXCEPTION 'a refund of % exceeds what is left of its charge', NEW.amount
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END $$;
--> statement-breakpoint
CREATE TRIGGER charges_refund_fits BEFORE INSERT OR UPDATE OF amount, status ON charges FOR EACH ROW
  WHEN (NEW.kind = 'refund' AND NEW.status IN ('pending', 'refunded'))
  EXECUTE FUNCTION check_refund_amount();
--> statement-breakpoint
-- A customer's units never rise above the limit. Lowering the limit later takes no units away.
CREATE FUNCTION check_customer_limit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.units > (SELECT max_per_customer FROM resources WHERE id = NEW.resource_id) THEN
    RAISE EXCEPTION 'the limit of % per customer is exceeded', NEW.resource_id
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END $$;
--> statement-breakpoint
CREATE TRIGGER customer_holdings_limit BEFORE UPDATE OF units ON customer_holdings FOR EACH ROW
  WHEN (NEW.units > OLD.units)
  EXECUTE FUNCTION check_customer_limit();
--> statement-breakpoint
-- The currency of a resource is fixed once its ledger has an entry, or an open purchase or booking was priced in it:
-- otherwise 4,000 US cents would become 4,000 yen. Every writer of the ledger locks the resource's row first, as this
-- update has done, so one of the two sees the other. A queued row takes no lock; it is priced at settlement, under that lock.
CREATE FUNCTION check_currency_unchanged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM ledger_entries WHERE resource_id = OLD.id)
     OR EXISTS (SELECT 1 FROM bookings WHERE resource_id = OLD.id AND status IN ('requested', 'accepted') AND amount > 0)
     -- The buyer of a queued row has seen a price in the old currency.
     OR OLD.price > 0 AND (
       EXISTS (SELECT 1 FROM bookings WHERE resource_id = OLD.id AND status = 'queued')
       OR EXISTS (SELECT 1 FROM purchases WHERE queue = OLD.id AND status = 'queued')
       OR EXISTS (SELECT 1 FROM purchases WHERE jsonb_array_length(items) > 1 AND status = 'queued'
                  AND items @> jsonb_build_array(jsonb_build_object('resource', OLD.id)))) THEN
    RAISE EXCEPTION 'resources_currency_fixed: the currency of % stays %', OLD.id, OLD.currency
      USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'resources_currency_fixed';
  END IF;
  RETURN NEW;
END $$;
--> statement-breakpoint
CREATE TRIGGER resources_currency_fixed BEFORE UPDATE OF currency ON resources FOR EACH ROW
  WHEN (upper(NEW.currency) <> upper(OLD.currency))
  EXECUTE FUNCTION check_currency_unchanged();
--> statement-breakpoint
INSERT INTO outbox_retention DEFAULT VALUES;
--> statement-breakpoint
-- One row a resource, updated in each batch: the same storage settings as for resources.
ALTER TABLE outbox_sequences SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
--> statement-breakpoint
-- Appends one outbox row for each resource of which the statement changed a status; a cart is an event of each of its
-- resources. The lock on the resource's row of outbox_sequences is taken before the outbox row gets its id and is kept
-- until the commit, so the changes of a resource have the same order by id and by number. These locks are taken in the
-- order of the references, so two carts with the same resources cannot deadlock.
-- Settings: workers switch hash joins off; the two transition tables of this trigger are the exception.
CREATE FUNCTION outbox_on_purchase_update() RETURNS trigger LANGUAGE plpgsql
  SET enable_hashjoin = on SET enable_seqscan = on SET enable_nestloop = off AS $$
BEGIN
  WITH moved AS MATERIALIZED (
    SELECT n.id, n.seq, n.queue, n.items, n.status, n.reason
    FROM new_rows n JOIN old_rows o ON o.id = n.id WHERE n.status <> o.status
  ), changes AS (
    SELECT queue AS resource_id, id, seq, status, reason FROM moved
    UNION ALL
    SELECT DISTINCT (l ->> 'resource') COLLATE "C", id, seq, status, reason
    FROM moved CROSS JOIN LATERAL jsonb_array_elements(items) l
    WHERE jsonb_array_length(items) > 1 AND l ->> 'resource' <> queue
  ), changed AS (
    SELECT resource_id, count(*) AS n, array_agg(id ORDER BY seq) AS subjects, array_agg(status ORDER BY seq) AS statuses,
           array_agg(reason ORDER BY seq) AS reasons
    FROM changes GROUP BY resource_id
  ), head AS (
    INSERT INTO outbox_sequences AS h (resource_id, last_sequence) SELECT resource_id, n FROM changed ORDER BY resource_id
    ON CONFLICT (resource_id) DO UPDATE SET last_sequence = h.last_sequence + excluded.last_sequence RETURNING resource_id, last_sequence
  )
  INSERT INTO outbox (resource_id, subject_type, last_sequence, subject_ids, statuses, reasons)
  SELECT resource_id, 'purchase', head.last_sequence, subjects, statuses, reasons FROM changed JOIN head USING (resource_id);
  RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER purchases_changed AFTER UPDATE ON purchases REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION outbox_on_purchase_update();
--> statement-breakpoint
CREATE FUNCTION outbox_on_booking_update() RETURNS trigger LANGUAGE plpgsql
  SET enable_hashjoin = on SET enable_seqscan = on SET enable_nestloop = off AS $$
BEGIN
  WITH changed AS (
    SELECT n.resource_id, count(*) AS n, array_agg(n.id ORDER BY n.seq) AS subjects,
           array_agg(n.status ORDER BY n.seq) AS statuses, array_agg(n.reason ORDER BY n.seq) AS reasons
    FROM new_rows n JOIN old_rows o ON o.id = n.id WHERE n.status <> o.status GROUP BY n.resource_id
  ), head AS (
    INSERT INTO outbox_sequences AS h (resource_id, last_sequence) SELECT resource_id, n FROM changed ORDER BY resource_id
    ON CONFLICT (resource_id) DO UPDATE SET last_sequence = h.last_sequence + excluded.last_sequence RETURNING resource_id, last_sequence
  )
  INSERT INTO outbox (resource_id, subject_type, last_sequence, subject_ids, statuses, reasons)
  SELECT resource_id, 'booking', head.last_sequence, subjects, statuses, reasons FROM changed JOIN head USING (resource_id);
  RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER bookings_changed AFTER UPDATE ON bookings REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION outbox_on_booking_update();
--> statement-breakpoint
-- Events that are not an UPDATE of a queued row: stock in and out, and a replacement bought with late money, which is
-- inserted with its final status. WHEN avoids the function call for intake and for ledger entries of sales.
CREATE FUNCTION outbox_append(of_resource text, of_kind text, subject uuid, status text, reason text, units bigint)
  RETURNS void LANGUAGE sql AS $$
  WITH head AS (
    INSERT INTO outbox_sequences AS h (resource_id, last_sequence) VALUES (of_resource, 1)
    ON CONFLICT (resource_id) DO UPDATE SET last_sequence = h.last_sequence + 1 RETURNING last_sequence
  )
  INSERT INTO outbox (resource_id, subject_type, last_sequence, subject_ids, statuses, reasons, delta)
  SELECT of_resource, of_kind, last_sequence, ARRAY[subject], ARRAY[status], ARRAY[reason], units FROM head
$$;
--> statement-breakpoint
CREATE FUNCTION outbox_on_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_TABLE_NAME = 'purchases' THEN
    PERFORM outbox_append(resource_id, 'purchase', NEW.id, NEW.status, NEW.reason, NULL)
    FROM (
      SELECT NEW.queue AS resource_id
      UNION SELECT (l ->> 'resource') COLLATE "C" FROM jsonb_array_elements(NEW.items) l WHERE l ? 'resource'
      ORDER BY resource_id
    ) AS refs;
  ELSIF TG_TABLE_NAME = 'bookings' THEN
    PERFORM outbox_append(NEW.resource_id, 'booking', NEW.id, NEW.status, NEW.reason, NULL);
  ELSE
    PERFORM outbox_append(NEW.resource_id, 'resource', NULL, 'restocked', NEW.reason, NEW.delta);
  END IF;
  RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER purchases_came AFTER INSERT ON purchases FOR EACH ROW WHEN (NEW.status <> 'queued')
  EXECUTE FUNCTION outbox_on_insert();
--> statement-breakpoint
CREATE TRIGGER bookings_came AFTER INSERT ON bookings FOR EACH ROW WHEN (NEW.status <> 'queued')
  EXECUTE FUNCTION outbox_on_insert();
--> statement-breakpoint
-- Deferred to the commit: a restock writes the ledger before it locks its resource, a settlement the other way round. Both
-- lock the row of outbox_sequences last, so they cannot deadlock.
CREATE CONSTRAINT TRIGGER ledger_entries_restocked AFTER INSERT ON ledger_entries DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
  WHEN (NEW.purchase_id IS NULL AND NEW.booking_id IS NULL) EXECUTE FUNCTION outbox_on_insert();
--> statement-breakpoint
-- A refund, dispute or loss at the provider is an event of each resource that was paid for. created_at is the time of
-- the transaction, so it is the same in the events of all resources of a cart.
CREATE FUNCTION outbox_on_charge_change() RETURNS trigger LANGUAGE plpgsql
  SET enable_seqscan = on SET enable_nestloop = on AS $$
BEGIN
  WITH refs AS (
    SELECT queue AS resource_id FROM purchases WHERE id = NEW.purchase_id
    UNION SELECT (l ->> 'resource') COLLATE "C" FROM purchases, jsonb_array_elements(items) l WHERE id = NEW.purchase_id
    UNION SELECT resource_id FROM bookings WHERE id = NEW.booking_id
  ), head AS (
    INSERT INTO outbox_sequences AS h (resource_id, last_sequence) SELECT resource_id, 1 FROM refs ORDER BY resource_id
    ON CONFLICT (resource_id) DO UPDATE SET last_sequence = h.last_sequence + 1 RETURNING resource_id, last_sequence
  )
  INSERT INTO outbox (resource_id, subject_type, last_sequence, subject_ids, statuses, reasons, delta, created_at)
  SELECT resource_id, 'payment', last_sequence, ARRAY[NEW.id],
         ARRAY[CASE WHEN NEW.kind = 'charge' THEN 'authorization_lost' WHEN NEW.kind = 'refund' AND NEW.status = 'failed' THEN 'refund_failed'
                    WHEN NEW.kind = 'refund' THEN 'refunded' WHEN NEW.status = 'open' THEN 'dispute_opened'
                    ELSE 'dispute_' || NEW.status END],
         ARRAY[NEW.reason], NEW.amount, now() FROM head;
  RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER charges_came AFTER INSERT ON charges FOR EACH ROW
  WHEN (NEW.status IN ('refunded', 'failed', 'authorization_lost', 'lost', 'open', 'won'))
  EXECUTE FUNCTION outbox_on_charge_change();
--> statement-breakpoint
CREATE TRIGGER charges_moved AFTER UPDATE OF status ON charges FOR EACH ROW
  WHEN (NEW.status IS DISTINCT FROM OLD.status AND NEW.status IN ('refunded', 'failed', 'authorization_lost', 'lost', 'won'))
  EXECUTE FUNCTION outbox_on_charge_change();
