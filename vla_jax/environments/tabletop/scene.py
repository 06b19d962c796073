"""The table, the blocks, plates and cameras, and the two-finger gripper, as MJCF text: primitives only.

Shadows and multisampling are off: without a GPU they are most of the rendering time. Frames and units as in
`goals.py`. The hand's frame: z out of the fingers, y along which they open, x forward; the tool point is the place
between the finger tips.
"""

from vla_jax.environments.tabletop.goals import BLOCK_HALF, PLATE_HEIGHT, PLATE_RADIUS

TIMESTEP = 0.005
CAN_RADIUS, CAN_HALF = 0.018, 0.03
FINGER_TRAVEL = 0.04
"""Each finger's, closed to open, in metres."""
TOOL_LENGTH = 0.10
"""From the hand's origin to the tool point."""
HEIGHTS = {"block": BLOCK_HALF, "can": CAN_HALF, "plate": PLATE_HEIGHT / 2}
"""Of a body's centre when it stands on the table."""
PARKED = (5.0, 0.0, -5.0)
"""Where bodies that a scene does not have are, out of every camera's sight."""

GRIPPER = f"""
<geom type="box" size="0.022 0.05 0.012" pos="0 0 0.03" mass="0.15" class="palm"/>
<geom type="cylinder" size="0.02 0.02" pos="0 0 0" mass="0.1" class="palm"/>
<site name="tool" pos="0 0 {TOOL_LENGTH}" size="0.002" rgba="0 0 0 0"/>
<camera name="wrist" pos="-0.075 0 0.02" xyaxes="0 1 0 0.978 0 -0.208" fovy="85"/>
<body name="left_finger" pos="0 0.006 0" gravcomp="1">
  <joint name="left_finger" type="slide" axis="0 1 0" range="0 {FINGER_TRAVEL}" armature="0.02"/>
  <geom class="finger"/>
</body>
<body name="right_finger" pos="0 -0.006 0" gravcomp="1">
  <joint name="right_finger" type="slide" axis="0 -1 0" range="0 {FINGER_TRAVEL}" armature="0.02"/>
  <geom class="finger"/>
</body>"""
GRIPPER_ACTUATORS = f"""
<position name="left_finger" joint="left_finger" kp="400" dampratio="1" ctrlrange="0 {FINGER_TRAVEL}"/>
<position name="right_finger" joint="right_finger" kp="400" dampratio="1" ctrlrange="0 {FINGER_TRAVEL}"/>"""
BLOCK = """
<body name="block_{number}" pos="{x} 0 {z}" gravcomp="1">
  <freejoint/>
  <geom name="block_{number}" type="box" size="{half} {half} {half}" class="movable"/>
</body>"""
PLATE = """
<body name="plate_{number}" mocap="true" pos="{x} 0 {z}">
  <geom name="plate_{number}" type="cylinder" size="{radius} {half}" friction="1 0.02 0.0002"/>
</body>"""


def mjcf(robot: str, actuators: str) -> str:
    """The whole model, with a robot's bodies and actuators in it."""
    x, _, z = PARKED
    blocks = "".join(BLOCK.format(number=number, x=x + number, z=z, half=BLOCK_HALF) for number in range(3))
    plates = "".join(
        PLATE.format(number=number, x=x + 3 + number, z=z, radius=PLATE_RADIUS, half=PLATE_HEIGHT / 2)
        for number in range(2)
    )
    return f"""
<mujoco model="tabletop">
  <compiler angle="radian"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <statistic center="0 0 0.1" extent="1"/>
  <visual>
    <global offwidth="640" offheight="640"/>
    <quality shadowsize="0" offsamples="0"/>
    <map znear="0.01" zfar="20"/>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.3 0.3 0.3" specular="0 0 0"/>
  </visual>
  <default>
    <default class="finger">
      <geom type="box" size="0.009 0.006 0.026" pos="0 0 0.087" mass="0.03" friction="1.5 0.02 0.0002" condim="4"
        rgba="0.25 0.25 0.28 1"/>
    </default>
    <default class="palm">
      <geom rgba="0.13 0.13 0.15 1" contype="0" conaffinity="0"/>
    </default>
    <default class="movable">
      <geom mass="0.05" friction="1.5 0.02 0.0002" condim="4"/>
    </default>
  </default>
  <worldbody>
    <light pos="0.3 -0.4 1.5" dir="-0.2 0.25 -1" directional="true" castshadow="false" diffuse="0.4 0.4 0.4"
      specular="0 0 0"/>
    <geom name="floor" type="plane" size="3 3 0.1" pos="0 0 -0.4" rgba="0.3 0.33 0.38 1" contype="0" conaffinity="0"/>
    <geom name="table" type="box" size="0.3 0.34 0.03" pos="0 0 -0.03" rgba="0.72 0.62 0.5 1"/>
    <camera name="front" pos="0.52 0 0.62" xyaxes="0 1 0 -0.731 0 0.682" fovy="34"/>
    {robot}{blocks}{plates}
    <body name="can" pos="{x + 5} 0 {z}" gravcomp="1">
      <freejoint/>
      <geom name="can" type="cylinder" size="{CAN_RADIUS} {CAN_HALF}" class="movable"/>
    </body>
  </worldbody>
  <contact><exclude body1="left_finger" body2="right_finger"/></contact>
  <actuator>{actuators}{GRIPPER_ACTUATORS}</actuator>
</mujoco>"""
