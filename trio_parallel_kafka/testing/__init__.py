"""What applications are tested with: brokers of three kinds, histories, and what they are held against."""

from trio_parallel_kafka.testing.brokers import Broker as Broker
from trio_parallel_kafka.testing.embedded_broker import (
    EmbeddedBroker as EmbeddedBroker,
    EmbeddedBrokerError as EmbeddedBrokerError,
    open_embedded_broker as open_embedded_broker,
)
from trio_parallel_kafka.testing.exactly_once import ExactlyOnceOutput as ExactlyOnceOutput
from trio_parallel_kafka.testing.guarantee import (
    Guarantee as Guarantee,
    GuaranteeViolationError as GuaranteeViolationError,
)
from trio_parallel_kafka.testing.guarantees import (
    AtLeastOnce as AtLeastOnce,
    KeyOrder as KeyOrder,
    KeySerial as KeySerial,
    LittleReplay as LittleReplay,
    OneOwner as OneOwner,
)
from trio_parallel_kafka.testing.history import History as History
from trio_parallel_kafka.testing.kafka_broker import (
    KafkaBroker as KafkaBroker,
    open_kafka_broker as open_kafka_broker,
)
from trio_parallel_kafka.testing.simulation import (
    SimulatedBroker as SimulatedBroker,
    SimulatedProcess as SimulatedProcess,
    open_simulated_broker as open_simulated_broker,
    open_simulated_consumer as open_simulated_consumer,
    seeded as seeded,
    simulate as simulate,
)
