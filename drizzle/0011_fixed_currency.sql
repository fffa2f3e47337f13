-- The currency of a resource is what its ledger counts, or what its open purchases and bookings were priced in: 4,000 US
-- cents would become 4,000 yen. Whoever writes the ledger locks the resource's row first, as this update has: one of the
-- two sees the other. What is only queued takes no lock; it is priced when it is settled, under that row's lock.
CREATE FUNCTION holdfast_currency_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM movements WHERE resource = OLD.ref)
     OR EXISTS (SELECT 1 FROM bookings WHERE resource = OLD.ref AND status IN ('requested', 'accepted') AND amount > 0)
     -- What is queued was asked for at a price that its buyer has seen.
     OR OLD.price > 0 AND (
       EXISTS (SELECT 1 FROM bookings WHERE resource = OLD.ref AND status = 'queued')
       OR EXISTS (SELECT 1 FROM purchases WHERE queue = OLD.ref AND status = 'queued')
       OR EXISTS (SELECT 1 FROM purchases WHERE jsonb_array_length(lines) > 1 AND status = 'queued'
                  AND lines @> jsonb_build_array(jsonb_build_object('resource', OLD.ref)))) THEN
    RAISE EXCEPTION 'resources_currency_fixed: the currency of % stays %', OLD.ref, OLD.currency
      USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'resources_currency_fixed';
  END IF;
  RETURN NEW;
END $$;
--> statement-breakpoint
CREATE TRIGGER resources_currency_fixed BEFORE UPDATE OF currency ON resources FOR EACH ROW
  WHEN (upper(NEW.currency) <> upper(OLD.currency))
  EXECUTE FUNCTION holdfast_currency_fixed();
